"""Tables whose rows are dataclasses: written in the order of their fields, read back checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from bench.records import Results, read_table
from dydit import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Row = TypeVar("Row", bound=DataclassInstance)
else:
    Row = TypeVar("Row")

Numbers = Mapping[str, Callable[[str], Any]]
"""Columns that are no text, with what makes a cell of them; an empty cell of a column of floats is None."""


def optional_float(cell: str) -> float | None:
    """A cell of a column that may be empty."""
    return float(cell) if cell else None


def write_rows(rows: Iterable[Row], kind: type[Row], numbers: Numbers, results: Results, name: str, lead: str) -> Path:
    """Write `name.csv` and `name.md`, which opens with the sentence `lead`, in the order given. Returns the CSV.

    Raises:
        InputError: two rows whose first field, their name, is the same.
    """
    columns = _columns(kind)
    frame = pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=list(columns))
    repeated = frame[columns[0]][frame[columns[0]].duplicated()]
    if len(repeated):
        raise InputError(f"{name}: {repeated.iloc[0]} is judged twice; keep one row for each {columns[0]}")
    # A column without any number would otherwise be written as text.
    types = {column: int if make is int else float for column, make in numbers.items()}
    return results.write_table(frame.astype(types), name, lead)


def read_rows(directory: Path, name: str, kind: type[Row], numbers: Numbers) -> tuple[Row, ...]:
    """The rows of `name.csv`.

    Raises:
        InputError: no such file, other columns, or a row that contradicts itself.
    """
    path, columns = directory / f"{name}.csv", _columns(kind)
    frame = read_table(directory, name, text=True)
    if tuple(frame.columns) != columns:
        raise InputError(f"{path}: columns are {list(frame.columns)}; they must be {list(columns)}")
    rows = []
    for number, record in enumerate(frame.fillna("").to_dict("records"), start=1):
        cells: dict[str, Any] = {str(column): cell for column, cell in record.items()}
        try:
            cells |= {column: make(cells[column]) for column, make in numbers.items()}
            rows.append(kind(**cells))
        except ValueError as error:  # InputError is one
            raise InputError(f"{path}, row {number}: {error}; judge the run again") from error
    return tuple(rows)


def _columns(kind: type[Row]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))
