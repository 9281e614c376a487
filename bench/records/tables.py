"""Tables in, tables out: CSV with a markdown twin, JSON records, and never a half-written file under a final name."""

from __future__ import annotations

import contextlib
import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pandas as pd

from bench.records.run_record import check_recorded
from dydit import InputError, first_line
from dydit.checkpoint.atomic import atomic_path
from dydit.checkpoint.model_card import markdown_cell


def write_table(frame: pd.DataFrame, directory: Path, name: str, lead: str = "") -> Path:
    """Write `name.csv`, at full precision, and `name.md`, for reading; missing cells are empty. Returns the CSV.

    `lead` is a sentence that stands above the table in `name.md`.
    """
    csv_path = directory / f"{name}.csv"
    with atomic_path(csv_path) as csv_part, atomic_path(directory / f"{name}.md") as markdown_part:
        safe = frame.astype(object).map(lambda cell: f"'{cell}" if _is_formula(cell) else cell)
        # A bare carriage return ends a row for readers, and pandas quotes cells with it only where it quotes all texts.
        returns = safe.map(lambda cell: "\r" in str(cell)).to_numpy().any()
        quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
        safe.to_csv(csv_part, index=False, encoding="utf-8", lineterminator="\n", quoting=quoting)
        opening = f"{lead}\n\n" if lead else ""
        markdown_part.write_text(f"{opening}{to_markdown(frame)}\n", encoding="utf-8")
    return csv_path


def to_markdown(frame: pd.DataFrame) -> str:
    """The frame as a markdown table: six significant digits, numbers to the right, missing cells empty."""
    cells = frame.astype(object).map(_markdown_cell)
    cells.columns = pd.Index([_markdown_cell(column) for column in frame.columns])
    rule = ["---:" if pd.api.types.is_numeric_dtype(kind) else ":---" for kind in frame.dtypes]
    lines = [list(cells.columns), rule, *cells.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def read_table(directory: Path, name: str, text: bool = False) -> pd.DataFrame:
    """A table as `write_table` left it; only empty cells are missing, so that the text 'NA' stays text.

    With `text`, numbers stay the text that they are written as.

    Raises:
        InputError: no such file, not a table, or not the one that the record of the run beside it is of.
    """
    path = directory / f"{name}.csv"
    try:
        check_recorded(path)
        frame = parse_table(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a directory of results") from error
    except ValueError as error:  # pandas' parser errors and UnicodeDecodeError are ones
        raise InputError(f"{path}: not a CSV table in UTF-8 ({error}); run the measurement again") from error
    for column in map(str, frame.select_dtypes(exclude="number")):
        marked = frame[column].map(lambda cell: str(cell)[:1] == "'" and _is_formula(cell)).astype(bool)
        if marked.any():
            frame.loc[marked, column] = frame.loc[marked, column].str[1:]
    return frame


def parse_table(source: Path | IO[str], text: bool = False) -> pd.DataFrame:
    """The cells of a CSV file in UTF-8: only empty ones are missing, and floats are what was written.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    kind = str if text else None
    return pd.read_csv(source, dtype=kind, encoding="utf-8", keep_default_na=False, na_values=[""])


@contextlib.contextmanager
def clear_content_errors(path: Path) -> Iterator[None]:
    """Turn what fails on the content of a run's files into one line: a column that is missing, text for a number.

    Raises:
        InputError: code inside raised it, or an error that such content provokes; `path` is named.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: holds something unexpected ({type(error).__name__}: {first_line(error)}); run it again"
        ) from error


_FORMULA = re.compile(r"'*([=@\t\r]|[+\-][^\d.\s])")
"""What a spreadsheet would run as a formula, behind marks of `write_table` or none; a tolerance begins with a sign."""


def _is_formula(cell: Any) -> bool:
    """Whether a cell is a text that must not begin a cell of a CSV as it is, or has a mark before it."""
    return isinstance(cell, str) and _FORMULA.match(cell) is not None


def _markdown_cell(value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isnan(number):
            return ""
        # Six digits are enough to read by; whole and large numbers keep all of theirs.
        return f"{number:.0f}" if abs(number) >= 1e6 or number.is_integer() else f"{number:.6g}"
    return markdown_cell(str(value))
