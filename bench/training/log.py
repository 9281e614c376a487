"""The log of a training: one row per step, and every so often the rates of every block.

Where a run resumes, the files are cut back to the steps before. The same may go to TensorBoard, which then hides the
later steps of the earlier run.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.records import clear_write_errors
from dydit import InputError, first_line
from dydit.checkpoint.atomic import atomic_path
from dydit.training import Recipe, StepLog

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


RATES_EVERY = 100
"""Steps between two entries of `rates.csv`."""
LOG = tuple(field.name for field in dataclasses.fields(StepLog) if field.name != "rates")
RATES = ("step", "layer", "heads", "channel_groups", "tokens")
SCALARS = ("loss", "ratio", "target", "gradient_norm")
"""Columns of `log.csv` that TensorBoard shows."""


class Logs:
    """`log.csv` and `rates.csv`, open for more rows, and TensorBoard's `board` (None: not asked for)."""

    def __init__(self, out: Path, steps: IO[str], rates: IO[str], board: SummaryWriter | None) -> None:
        self.out, self.board = out, board
        self.steps, self.rates = csv.writer(steps, lineterminator="\n"), csv.writer(rates, lineterminator="\n")

    @classmethod
    @contextlib.contextmanager
    def opened(cls, out: Path, step: int, tensorboard: bool = False) -> Iterator[Logs]:
        """Both files, cut back to the steps before `step`, and `tensorboard/` where asked for.

        Raises:
            InputError: a file cannot be written.
        """
        with clear_write_errors(out), contextlib.ExitStack() as stack:
            files = (("log.csv", LOG), ("rates.csv", RATES))
            steps, rates = (stack.enter_context(_cut_back(out / name, columns, step)) for name, columns in files)
            yield cls(out, steps, rates, stack.enter_context(_board(out, step)) if tensorboard else None)

    def add(self, log: StepLog) -> None:
        """Write the row of a step, and the rates of its blocks where they are due.

        Raises:
            InputError: a file cannot be written.
        """
        layers = list(enumerate(log.rates)) if log.step % RATES_EVERY == 0 else []
        with clear_write_errors(self.out):
            self.steps.writerow([getattr(log, name) for name in LOG])
            self.rates.writerows([log.step, layer, *rates] for layer, rates in layers)
            if self.board is not None:
                scalars = {name: getattr(log, name) for name in SCALARS}
                for layer, rates in layers:
                    scalars |= {f"{name}/{layer:02}": rate for name, rate in zip(RATES[2:], rates, strict=True)}
                for name, value in scalars.items():
                    self.board.add_scalar(name, value, log.step)


def _board(out: Path, step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # which needs a package of its own

    return SummaryWriter(str(out / "tensorboard"), purge_step=step)


def _cut_back(path: Path, columns: tuple[str, ...], step: int) -> IO[str]:
    """A log, cut back to its whole rows of the steps before `step` and open for more; every line is written at once."""
    rows = _before(path, columns, step)
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    return path.open("a", 1, newline="", encoding="utf-8")


def _before(path: Path, columns: tuple[str, ...], step: int) -> list[list[str]]:
    if not path.is_file():
        return []
    rows = _rows(path)[1:]
    whole = [row for row in rows if len(row) == len(columns) and row[0].isdigit()]
    return [row for row in whole if int(row[0]) < step]


def _rows(path: Path) -> list[list[str]]:
    """The rows of a log, its header first.

    Raises:
        InputError: the file is no CSV in UTF-8, or cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a log of a training ({first_line(error)}); take it away") from None


def training_outcome(out: Path, recipe: Recipe) -> dict[str, str]:
    """What the log says of a finished training: means over the last tenth of its steps, and how many were skipped."""
    header, *lines = _rows(out / "log.csv") or [[]]
    rows = [dict(zip(header, line, strict=False)) for line in lines]
    tail = rows[-max(recipe.steps // 10, 1) :]
    try:
        means = {name: sum(float(row[name]) for row in tail) / len(tail) for name in ("loss", "ratio")}
        skipped = sum(row["skipped"] == "True" for row in rows)
    except (KeyError, ValueError, ZeroDivisionError):
        rows = []
    if len(rows) < recipe.steps:  # somebody has edited the file
        return dict.fromkeys(("final_loss", "final_ratio", "skipped_steps"), "unknown, the log has gaps")
    return {
        "final_loss": f"{means['loss']:.5f}",
        "final_ratio": f"{means['ratio']:.4f}",
        "skipped_steps": str(skipped),
    }
