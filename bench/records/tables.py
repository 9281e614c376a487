"""Tables in, tables out: CSV with a markdown twin, JSON records, and never a half-written file under a final name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.records.run_record import check_recorded
from dydit import InputError
from dydit.checkpoint.atomic import atomic_path


def write_table(frame: pd.DataFrame, directory: Path, name: str, lead: str = "") -> Path:
    """Write `name.csv`, at full precision, and `name.md`, for reading; missing cells are empty. Returns the CSV.

    `lead` is a sentence that stands above the table in `name.md`.
    """
    csv_path = directory / f"{name}.csv"
    with atomic_path(csv_path) as csv_part, atomic_path(directory / f"{name}.md") as markdown_part:
        # A spreadsheet would run a cell that begins so.
        safe = frame.astype(object).map(lambda cell: f"'{cell}" if str(cell).startswith(("=", "@")) else cell)
        safe.to_csv(csv_part, index=False, encoding="utf-8", lineterminator="\n")
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
        return pd.read_csv(path, dtype=str if text else None, encoding="utf-8", keep_default_na=False, na_values=[""])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a directory of results") from error
    except ValueError as error:  # pandas' parser errors and UnicodeDecodeError are ones
        raise InputError(f"{path}: not a CSV table in UTF-8 ({error}); run the measurement again") from error


def _markdown_cell(value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isnan(number):
            return ""
        # Six digits are enough to read by; whole and large numbers keep all of theirs.
        return f"{number:.0f}" if abs(number) >= 1e6 or number.is_integer() else f"{number:.6g}"
    return " ".join(str(value).split()).replace("|", r"\|").replace("<", "&lt;")
