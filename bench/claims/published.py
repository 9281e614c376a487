"""The published tables of `reference_stats/paper/`, typed and checked: one `PublishedValue` per row."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from bench.records import shipped_data
from dydit import InputError, nearest

DIRECTORY = shipped_data() / "paper"
COLUMNS = ("paper", "table", "row", "dataset", "metric", "value", "unit", "source", "confidence", "note")
CONFIDENCES = ("two-sources", "one-source", "derived", "not-transcribed")
_REQUIRED = ("paper", "table", "row", "dataset", "metric", "source")
_DEFAULT_DATASET = "ImageNet-256"


@dataclass(frozen=True)
class PublishedValue:
    """One printed number: where it stands, what it says and who says so.

    `value` is None exactly where `confidence` is `not-transcribed`; `printed` keeps the digits as printed.
    `number` counts the rows of one file that share every part of the claim id, in file order.
    """

    source_file: str
    paper: str
    table: str
    row: str
    dataset: str
    metric: str
    value: float | None
    printed: str
    unit: str
    source: str
    confidence: str
    note: str
    number: int = 1

    @property
    def claim_id(self) -> str:
        """Readable slug, unique within its file: `dydit-table8-dydit-xl-lambda-0.5-flops`.

        Remarks in parentheses are left out, except in the row; so is the data set where it is ImageNet-256.
        """
        dataset = "" if self.dataset == _DEFAULT_DATASET else self.dataset
        parts = (_bare(self.paper), _bare(self.table), self.row, dataset, _bare(self.metric))
        return "-".join([_slug(part) for part in parts if part] + [str(self.number)] * (self.number > 1))

    @property
    def paper_table(self) -> str:
        """Short name of the paper and the table: `DyDiT, Table 8`."""
        return f"{_bare(self.paper)}, {self.table}"

    @property
    def decimals(self) -> int:
        """Digits printed after the decimal point: 2 for '6.07', 0 for '118'.

        Raises:
            InputError: the value is not transcribed.
        """
        if self.value is None:
            raise InputError(f"{self.claim_id}: no printed digits; the published value is not transcribed")
        exponent = Decimal(self.printed).as_tuple().exponent
        assert isinstance(exponent, int)  # load_published() admits finite numbers only
        return max(-exponent, 0)


def names(directory: Path | None = None) -> tuple[str, ...]:
    """Names of the published tables at hand, each the stem of one CSV file."""
    return tuple(sorted(path.stem for path in (directory or DIRECTORY).glob("*.csv")))


def load_published(name: str = "dydit_iclr2025", directory: Path | None = None) -> tuple[PublishedValue, ...]:
    """All rows of one published table, in file order; the file is read and checked once.

    Raises:
        InputError: no table of that name, or a cell that breaks a rule of the tables' README.
    """
    path = (directory or DIRECTORY) / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"no published table {name!r} in {path.parent}; choose from: {', '.join(names(path.parent))}")
    return _read(path)


def find_published(
    name: str, *, table: str, row: str, metric: str, dataset: str | None = None, directory: Path | None = None
) -> PublishedValue:
    """The one row of table file `name` with exactly these cells.

    Raises:
        InputError: none or several match; the message gives the number and the nearest cells.
    """
    wanted = {"table": table, "row": row, "metric": metric} | ({} if dataset is None else {"dataset": dataset})
    matches = list(load_published(name, directory))
    hint = ""
    for field, text in wanted.items():
        present = {getattr(value, field) for value in matches}
        matches = [value for value in matches if getattr(value, field) == text]
        if not matches:
            hint = f"{field} has: {', '.join(nearest(text, sorted(present)))}"
            break
    if len(matches) == 1:
        return matches[0]
    if matches:
        claims = ", ".join(value.claim_id for value in matches)
        hint = f"name the dataset, or select from load_published() by claim id: {claims}"
    asked = ", ".join(f"{field}={text!r}" for field, text in wanted.items())
    raise InputError(f"{name}: {len(matches)} rows match {asked}; {hint}")


@functools.cache
def _read(path: Path) -> tuple[PublishedValue, ...]:
    values: list[PublishedValue] = []
    first_line: dict[tuple[str, ...], int] = {}
    claim_ids: set[str] = set()
    for line, cells in _records(path):
        row = dict(zip(COLUMNS, cells, strict=True))
        published = _published(path.name, f"{path.name}, line {line}", row)
        # The same fact may stand twice when its sources differ; a true repetition is a slip of the pen.
        identity = tuple(row[column] for column in (*_REQUIRED, "note"))
        if identity in first_line:
            raise InputError(
                f"{path.name}, line {line}, column row: {row['row']!r} repeats line {first_line[identity]}; "
                "remove one, or tell them apart by source or note"
            )
        first_line[identity] = line
        while published.claim_id in claim_ids:
            published = dataclasses.replace(published, number=published.number + 1)
        claim_ids.add(published.claim_id)
        values.append(published)
    return tuple(values)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Data rows of a table with the line each begins on; raises InputError for anything but a whole CSV table."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != list(COLUMNS):
                raise InputError(f"{path.name}, line 1: columns are {header}; they must be {list(COLUMNS)}")
            line = reader.line_num + 1
            for cells in reader:
                if len(cells) != len(COLUMNS):
                    raise InputError(
                        f"{path.name}, line {line}: {len(cells)} cells instead of {len(COLUMNS)}; "
                        "quote the cells that hold commas"
                    )
                yield line, cells
                line = reader.line_num + 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not a CSV table in UTF-8 ({error}); restore the file") from error


def _published(source_file: str, where: str, row: dict[str, str]) -> PublishedValue:
    for column in _REQUIRED:
        if not row[column].strip():
            raise InputError(f"{where}, column {column}: empty; every published number names its {column}")
    confidence, printed = row["confidence"], row["value"]
    if confidence not in CONFIDENCES:
        raise InputError(f"{where}, column confidence: {confidence!r}; use one of {', '.join(CONFIDENCES)}")
    if (confidence == "not-transcribed") != (printed == ""):
        raise InputError(
            f"{where}, column value: {printed!r} with confidence {confidence}; "
            "the value is empty exactly where the confidence is not-transcribed"
        )
    cells = {column: row[column] for column in COLUMNS if column != "value"}
    return PublishedValue(source_file=source_file, value=_number(where, printed), printed=printed, number=1, **cells)


def _number(where: str, printed: str) -> float | None:
    if not printed:
        return None
    try:
        value = float(printed)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}, column value: {printed!r} is not a number; write digits alone, the unit apart")
    return value


def _bare(text: str) -> str:
    return re.sub(r"\s*\([^)]*\)", "", text).strip()


def _slug(text: str) -> str:
    text = text.lower().replace("++", "-plus").replace("%", "-percent")
    text = re.sub(r"\b(tables?) (?=\d)", r"table", text)
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-.")
