"""Tables as a page shows them: cells with their text, their full value to sort by, and what colours them."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.claims import SummaryRow
from bench.report.scoreboard import scores, waits_for

VERDICT_CLASSES = {
    "reproduced": "good",
    "supported": "good",
    "deviates": "bad",
    "contradicted": "bad",
    "not run": "open",
    "inconclusive": "open",
}


_LONG = 50
"""Characters of a text that wants a wide column."""


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the number to sort by (empty: it is text), its class, and an address to link to."""

    text: str
    value: str = ""
    kind: str = ""
    address: str = ""


LONGEST = 100
"""Rows of a table that the page shows whole; of a longer one it says where the file lies."""


@dataclass(frozen=True)
class Table:
    """A table of the page: `caption` says what it holds, `numeric` which columns are numbers."""

    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str) -> Table:
        """A table of a frame, in its order."""
        numeric = tuple(bool(pd.api.types.is_numeric_dtype(kind)) for kind in frame.dtypes)
        rows = tuple(tuple(cell(value) for value in row) for row in frame.astype(object).to_numpy().tolist())
        return cls(caption, tuple(map(str, frame.columns)), numeric, rows)

    @classmethod
    def unless_long(cls, frame: pd.DataFrame, caption: str) -> Table | None:
        """The same, or None for more than `LONGEST` rows, where a file has to do."""
        return None if len(frame) > LONGEST else cls.of(frame, caption)


def cell(value: Any) -> Cell:
    """A value as people read it: five significant digits, nothing for what is missing, verdicts in their colour."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return Cell("")
    if isinstance(value, Cell):
        return value
    if isinstance(value, (bool, np.bool_)):
        return Cell(str(value))
    if isinstance(value, (int, float, np.integer, np.floating)):
        number = float(value)
        whole = abs(number) >= 1e5 or number.is_integer()
        return Cell(f"{number:.0f}" if whole and math.isfinite(number) else f"{number:.5g}", repr(number))
    text = " ".join(str(value).split())
    long = "long" if len(text) > _LONG else ""
    return Cell(text, kind=VERDICT_CLASSES.get(text.split(" (")[0], long))


def csv_address(frame: pd.DataFrame) -> str:
    """The frame as a CSV file inside of an address, to be saved from the page."""
    return "data:text/csv;base64," + base64.b64encode(frame.to_csv(index=False).encode()).decode()


def score_table(rows: Sequence[SummaryRow], anchors: dict[str, str]) -> Table:
    """The scoreboard; every table's name leads to its section."""
    frame = pd.DataFrame(
        [
            {
                "published table": Cell(score.table, address=f"#{anchors[score.table]}"),
                "numbers": score.numbers,
                "reproduced": score.reproduced,
                "deviates": score.deviates,
                "not run": score.not_run,
                "most of these wait for": score.waits_for,
            }
            for score in scores(rows)
        ]
    )
    return Table.of(frame, "How many numbers of each published table are reproduced, deviate, or were not run")


def claims_table(table: str, rows: Sequence[tuple[str, SummaryRow]], timed: pd.DataFrame) -> Table:
    """The numbers of one published table beside what was measured.

    Args:
        table: its name.
        rows: (machine, row) of every judged or waiting number.
        timed: speed-ups on other machines, `row`, `machine`, `measured`, which the paper's GPU has no verdict for.
    """
    frame = pd.DataFrame(
        [
            {
                "row": row.row,
                "metric": f"{row.metric} ({row.unit})" if row.unit else row.metric,
                "published": row.published,
                "measured": row.measured,
                "machine": machine if row.measured is not None else "",
                "tolerance": row.tolerance.split(" (")[0],
                "verdict": row.verdict,
                "evidence, or what it waits for": row.evidence or f"{waits_for(row)}: {row.command or row.note}",
                "note": row.note if row.measured is not None else "",
                "confidence": row.confidence,
            }
            for machine, row in rows
        ]
    )
    if len(timed):
        waits = frame["measured"].isna()
        parts = [frame[~waits], timed.reindex(columns=frame.columns), frame[waits]]
        frame = pd.concat([part.astype(object) for part in parts], ignore_index=True)
    for column in ("published", "measured"):
        frame[column] = frame[column].astype(float)
    return Table.of(frame, f"{table}: published beside measured")
