"""The log of a training: one row per step, and every so often the rates of every block.

Where a run resumes, the files begin with what its checkpoint holds of them. The same may go to TensorBoard, which then
hides the later steps of the earlier run.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping
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

    def __init__(self, out: Path, files: Mapping[str, _Log], board: SummaryWriter | None) -> None:
        self.out, self.board, self._files = out, board, files
        self.steps, self.rates = (csv.writer(file, lineterminator="\n") for file in files.values())

    @classmethod
    @contextlib.contextmanager
    def opened(cls, out: Path, step: int, texts: Mapping[str, str], tensorboard: bool = False) -> Iterator[Logs]:
        """Both files with the rows of the steps before `step`, and `tensorboard/` where asked for.

        Args:
            out: directory of the run.
            step: from which the training goes on.
            texts: of both files up to there, as the checkpoint has them; what is not in it is taken from the files.
            tensorboard: whether to write there, too.

        Raises:
            InputError: a file cannot be written.
        """
        with clear_write_errors(out), contextlib.ExitStack() as stack:
            files = {}
            for name, columns in (("log.csv", LOG), ("rates.csv", RATES)):
                text = texts[name] if name in texts else _text_before(out / name, columns, step)
                files[name] = _Log(text, stack.enter_context(_begun(out / name, text)))
            yield cls(out, files, stack.enter_context(_board(out, step)) if tensorboard else None)

    @property
    def texts(self) -> dict[str, str]:
        """The text of both files by their names, as it was written."""
        return {name: file.text for name, file in self._files.items()}

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


class _Log:
    """The text of a file, and the file open for more: what is read of it later is never the file, which may change."""

    def __init__(self, text: str, file: IO[str]) -> None:
        self._parts, self._file = [text], file

    def write(self, text: str) -> None:
        self._parts.append(text)
        self._file.write(text)

    @property
    def text(self) -> str:
        return "".join(self._parts)


def _begun(path: Path, text: str) -> IO[str]:
    """A log that begins with a text and is open for more; every line is written at once."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
    return path.open("a", 1, newline="", encoding="utf-8")


def _text_before(path: Path, columns: tuple[str, ...], step: int) -> str:
    """The heading of a log, and its whole rows of the steps before `step` where there are some.

    Raises:
        InputError: the file is no CSV in UTF-8, or cannot be read.
    """
    rows: list[list[str]] = []
    try:
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[1:]
        whole = [row for row in rows if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) < step]
    except (OSError, csv.Error, ValueError) as error:
        raise InputError(f"{path}: not a log of a training ({first_line(error)}); take it away") from None
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *whole])
    return text.getvalue()


def training_outcome(text: str, recipe: Recipe) -> dict[str, str]:
    """What `log.csv` says of a finished training: means over the last tenth of its steps, how many were skipped."""
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
        tail = rows[-max(recipe.steps // 10, 1) :]
        means = {name: sum(float(row[name]) for row in tail) / len(tail) for name in ("loss", "ratio")}
        skipped = sum(row["skipped"] == "True" for row in rows)
    except (csv.Error, KeyError, TypeError, ValueError, ZeroDivisionError):
        rows = []
    if len(rows) < recipe.steps:  # somebody has edited the file
        return dict.fromkeys(("final_loss", "final_ratio", "skipped_steps"), "unknown, the log has gaps")
    return {
        "final_loss": f"{means['loss']:.5f}",
        "final_ratio": f"{means['ratio']:.4f}",
        "skipped_steps": str(skipped),
    }
