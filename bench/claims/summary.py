"""`summary.csv`: one row per published number, and the overview that people read."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims.verdict import VERDICTS, SummaryRow
from bench.records import to_markdown, write_table
from bench.records.tables import _read_csv
from dydit import InputError

SUMMARY_COLUMNS = tuple(field.name for field in dataclasses.fields(SummaryRow))
_NUMBER_COLUMNS = ("published", "measured")


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


def any_deviates(rows: Iterable[SummaryRow]) -> bool:
    """Whether a measured value is not what was published."""
    return any(row.verdict == "deviates" for row in rows)


def overview(rows: Sequence[SummaryRow]) -> str:
    """The judged rows as a markdown table, and how many rows have which verdict."""
    judged = [row for row in rows if row.verdict != "not run"]
    frame = pd.DataFrame(
        [
            {
                "source": row.paper_table,
                "row": row.row,
                "metric": f"{row.metric} ({row.unit})" if row.unit else row.metric,
                "published": row.published,
                "measured": _short(row.measured),
                "tolerance": row.tolerance.split(" (")[0],
                "verdict": row.verdict,
                "evidence": row.evidence,
            }
            for row in judged
        ]
    )
    counts = Counter(row.verdict for row in rows)
    totals = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    return f"{to_markdown(frame)}\n\n{len(rows)} published numbers and claims: {totals}."


def _short(value: float | None) -> float | None:
    """Five significant digits: as many as the tolerances need."""
    return None if value is None else float(f"{value:.5g}")
