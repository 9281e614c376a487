"""`summary.csv`: one row per published number, and the overview that people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from bench.claims.rows import optional_float, read_rows, write_rows
from bench.claims.subject import FACTS, KINDS, quantity_kind
from bench.claims.verdict import NOT_RUN, VERDICTS, SummaryRow
from bench.records import Results, to_markdown

_NUMBERS = dict.fromkeys(("published", "measured", "low", "high"), optional_float)
_NOT_TRANSCRIBED = "not-transcribed"


def write_summary(rows: Iterable[SummaryRow], results: Results) -> Path:
    """Write `summary.csv` and `summary.md`, which opens with the coverage, in the order given. Returns the CSV.

    Raises:
        InputError: two rows with one claim id.
    """
    rows = tuple(rows)
    return write_rows(rows, SummaryRow, _NUMBERS, results, "summary", coverage(rows))


def read_summary(directory: Path) -> tuple[SummaryRow, ...]:
    """The rows of `summary.csv`.

    Raises:
        InputError: no such file, other columns, or a row that contradicts itself (see `SummaryRow`).
    """
    return read_rows(directory, "summary", SummaryRow, _NUMBERS)


def coverage(rows: Sequence[SummaryRow]) -> str:
    """How many published numbers were measured, and what the others wait for, in a sentence; then the verdicts."""
    judged = Counter(quantity_kind(row.metric) for row in rows if row.verdict != NOT_RUN)
    kinds = ", ".join(f"{judged[kind]} of {kind}" for kind in KINDS if kind != FACTS)
    waiting = [row for row in rows if row.verdict == NOT_RUN and row.confidence != _NOT_TRANSCRIBED]
    measured = judged.total() - judged[FACTS]
    parts = [f"{measured} of {len(rows)} published numbers were measured in this run ({kinds})"]
    if judged[FACTS]:
        parts.append(f"{judged[FACTS]} {FACTS} were compared with the networks and recipes of this project")
    if waiting:
        parts.append(f"{len(waiting)} wait: {_waits(waiting)}")
    if missing := sum(row.confidence == _NOT_TRANSCRIBED for row in rows):
        parts.append(f"{missing} could not be transcribed from the paper")
    verdicts = Counter(row.verdict for row in rows)
    totals = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in VERDICTS)
    return f"{'; '.join(parts)}. Verdicts: {totals}."


def _waits(rows: Sequence[SummaryRow]) -> str:
    """What the rows wait for, most first: `3 for a GPU (a number may wait for several)`."""
    assets = Counter(asset for row in rows for asset in row.needs.split("; ") if asset)
    parts = [f"{count} for {asset}" for asset, count in assets.most_common()]
    if any(row.needs.count("; ") for row in rows):
        parts[-1] += " (one number may wait for several of these)"
    if ready := sum(bool(row.command) and not row.needs for row in rows):
        parts.append(f"{ready} for nothing but to be asked for")
    if without := sum(not row.command and not row.needs for row in rows):
        parts.append(f"{without} for a command, since none measures them yet")
    return ", ".join(parts)


def any_deviates(rows: Iterable[SummaryRow]) -> bool:
    """Whether a measured value is not what was published."""
    return any(row.verdict == "deviates" for row in rows)


def overview(rows: Sequence[SummaryRow]) -> str:
    """The coverage, and the judged rows as a markdown table; facts that agree are counted, and not listed."""
    judged = [row for row in rows if row.verdict != NOT_RUN]
    listed = [row for row in judged if row.verdict == "deviates" or quantity_kind(row.metric) != FACTS]
    frame = pd.DataFrame(
        [
            {
                "source": row.paper_table,
                "row": row.row,
                "metric": f"{row.metric} ({row.unit})" if row.unit else row.metric,
                "published": row.published,
                "confidence": row.confidence,
                "measured": _short(row.measured),
                "tolerance": row.tolerance.split(" (")[0],
                "verdict": row.verdict,
                "evidence": row.evidence,
            }
            for row in listed
        ]
    )
    parts = [coverage(rows), *([to_markdown(frame)] if listed else [])]
    if left_out := len(judged) - len(listed):
        parts.append(f"Not shown: {left_out} {FACTS} that are reproduced.")
    return "\n\n".join(parts)


def _short(value: float | None) -> float | None:
    """Five significant digits: as many as the tolerances need."""
    return None if value is None else float(f"{value:.5g}")
