"""Tables in, tables out: CSV with a markdown twin, JSON records, and never a half-written file under a final name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.verdict import SummaryRow
from dydit.errors import InputError
from dydit.files import atomic_path

SCHEMA_VERSION = 1
"""Version of the files below; to be raised when a column or key changes its meaning."""

SUMMARY_COLUMNS = tuple(field.name for field in dataclasses.fields(SummaryRow))
_NUMBER_COLUMNS = ("published", "measured")


def prepare_output(path: str | Path) -> Path:
    """Make the output directory and prove that it can be written; to be called before any long work.

    Raises:
        InputError: the path or a parent is a file, or the directory cannot be made or written.
    """
    directory = Path(path)
    for part in (directory, *directory.parents):
        if os.path.exists(part) and not part.is_dir():
            raise InputError(f"output {directory}: {part} is a file; remove it or choose another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"output {directory}: not writable ({reason}); choose another directory") from error
    return directory


def write_table(frame: pd.DataFrame, directory: Path, name: str) -> Path:
    """Write `name.csv`, at full precision, and `name.md`, for reading; missing cells are empty. Returns the CSV."""
    csv_path = directory / f"{name}.csv"
    with atomic_path(csv_path) as csv_part, atomic_path(directory / f"{name}.md") as markdown_part:
        frame.to_csv(csv_part, index=False, encoding="utf-8", lineterminator="\n")
        markdown_part.write_text(to_markdown(frame) + "\n", encoding="utf-8")
    return csv_path


def to_markdown(frame: pd.DataFrame) -> str:
    """The frame as a markdown table: six significant digits, numbers to the right, missing cells empty."""
    cells = frame.astype(object).map(_markdown_cell)
    cells.columns = pd.Index([_markdown_cell(column) for column in frame.columns])
    rule = ["---:" if pd.api.types.is_numeric_dtype(kind) else ":---" for kind in frame.dtypes]
    lines = [list(cells.columns), rule, *cells.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def read_table(directory: Path, name: str) -> pd.DataFrame:
    """A table as `write_table` left it; only empty cells are missing, so that the text 'NA' stays text.

    Raises:
        InputError: no such file, or not a table.
    """
    return _read_csv(directory / f"{name}.csv")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file of the repository.

    Raises:
        InputError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore it from the repository") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are ones
        raise InputError(f"{path}: not TOML ({error}); correct it") from error


def write_summary(rows: Iterable[SummaryRow], directory: Path) -> Path:
    """Write `summary.csv` and `summary.md`, in the order given. Returns the CSV.

    Raises:
        InputError: two rows with one claim id.
    """
    frame = pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=list(SUMMARY_COLUMNS))
    repeated = frame["claim_id"][frame["claim_id"].duplicated()]
    if len(repeated):
        raise InputError(f"summary: claim {repeated.iloc[0]} is judged twice; keep one row for each claim")
    # A column without any number would otherwise be written as text.
    return write_table(frame.astype(dict.fromkeys(_NUMBER_COLUMNS, float)), directory, "summary")


def read_summary(directory: Path) -> tuple[SummaryRow, ...]:
    """The rows of `summary.csv`.

    Raises:
        InputError: no such file, other columns, or a row that contradicts itself (see `SummaryRow`).
    """
    path = directory / "summary.csv"
    frame = _read_csv(path, dtype=dict.fromkeys(SUMMARY_COLUMNS, str))
    if tuple(frame.columns) != SUMMARY_COLUMNS:
        raise InputError(f"{path}: columns are {list(frame.columns)}; they must be {list(SUMMARY_COLUMNS)}")
    rows = []
    for line, record in enumerate(frame.fillna("").to_dict("records"), start=2):
        cells: dict[str, Any] = {str(column): cell for column, cell in record.items()}
        try:
            for column in _NUMBER_COLUMNS:
                cells[column] = float(cells[column]) if cells[column] else None
            rows.append(SummaryRow(**cells))
        except ValueError as error:  # InputError is one
            raise InputError(f"{path}, row {line - 1}: {error}; write the summary again") from error
    return tuple(rows)


def write_json(record: Any, path: Path) -> Path:
    """Write a record as indented JSON; NaN and infinity, which JSON lacks, are refused (ValueError)."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return path


def write_run(record: Mapping[str, Any], directory: Path) -> Path:
    """Write `run.json`: the record of `bench.environment`, headed by the schema version."""
    version = {"schema_version": SCHEMA_VERSION}
    return write_json(version | dict(record) | version, directory / "run.json")


def read_run(directory: Path) -> dict[str, Any]:
    """The record in `run.json`.

    Raises:
        InputError: no such file, not a run record, or one of a newer schema than this code knows.
    """
    path = directory / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a directory of results") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); run the measurement again") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{path}: schema_version is {version!r}; it must be a whole number from 1")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this version reads; "
            "update the project"
        )
    return dict(record)


def _read_csv(path: Path, dtype: dict[str, type[str]] | None = None) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=dtype, encoding="utf-8", keep_default_na=False, na_values=[""])
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
    return " ".join(str(value).split("\n")).replace("|", r"\|")
