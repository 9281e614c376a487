"""The log of a training: a row a step, and now and then the rates of every block; cut back where a run resumes."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dydit.files import atomic_path
from dydit.training import Recipe, StepLog

RATES_EVERY = 100
"""Steps between two entries of `rates.csv`."""
LOG = tuple(field.name for field in dataclasses.fields(StepLog) if field.name != "rates")
RATES = ("step", "layer", "heads", "channel_groups", "tokens")


class Logs:
    """`log.csv` and `rates.csv`, open to be written on."""

    def __init__(self, steps: IO[str], rates: IO[str]) -> None:
        self.steps, self.rates = csv.writer(steps, lineterminator="\n"), csv.writer(rates, lineterminator="\n")

    @classmethod
    @contextlib.contextmanager
    def opened(cls, out: Path, step: int) -> Iterator[Logs]:
        """Both files with what they hold of the steps before `step`."""
        with contextlib.ExitStack() as stack:
            files = []
            for name, columns in (("log.csv", LOG), ("rates.csv", RATES)):
                path = out / name
                rows = _before(path, columns, step)
                with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file, lineterminator="\n").writerows([columns, *rows])
                files.append(stack.enter_context(path.open("a", 1, newline="", encoding="utf-8")))
            yield cls(*files)

    def add(self, log: StepLog) -> None:
        self.steps.writerow([getattr(log, name) for name in LOG])
        if log.step % RATES_EVERY == 0:
            self.rates.writerows([log.step, layer, *rates] for layer, rates in enumerate(log.rates))


def _before(path: Path, columns: tuple[str, ...], step: int) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    whole = [row for row in rows if len(row) == len(columns) and row[0].isdigit()]
    return [row for row in whole if int(row[0]) < step]


def outcome(out: Path, recipe: Recipe) -> dict[str, str]:
    """Means over the last tenth of the steps, from the log."""
    with (out / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tail = rows[-max(recipe.steps // 10, 1) :]
    if len(rows) < recipe.steps:  # someone has shortened the log
        return dict.fromkeys(("final_loss", "final_ratio", "skipped_steps"), "unknown, the log has gaps")
    means = {name: sum(float(row[name]) for row in tail) / len(tail) for name in ("loss", "ratio")}
    skipped = sum(row["skipped"] == "True" for row in rows)
    return {
        "final_loss": f"{means['loss']:.5f}",
        "final_ratio": f"{means['ratio']:.4f}",
        "skipped_steps": str(skipped),
    }
