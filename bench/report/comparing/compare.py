"""Two runs, row by row: what is better, worse, changed or undecided, and what cannot be compared, with the reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import to_markdown
from bench.report.comparing.protocols import EITHER, HIGHER, Protocol, direction, protocol_of
from bench.report.comparing.ratios import Interval, combined, median_ratio, samples_of
from bench.report.runs import Run, load_runs
from dydit import InputError

BETTER, WORSE, CHANGED, UNDECIDED, SAME, NOT_COMPARABLE = OUTCOMES = (
    "better",
    "worse",
    "changed",
    "undecided",
    "same",
    "not comparable",
)
MARGIN = 0.02
"""How far a ratio must lie from 1, with its whole interval, to be better or worse: two runs of the same code on one
machine differ by as much, which the interval of each does not contain."""
SHOWN = 40
"""Rows that are printed; all of them go to comparison.csv."""
_STEP_DOWN = {("reproduced", "deviates"), ("supported", "contradicted")}
_LOST = {"reproduced", "deviates", "supported"}


@dataclass(frozen=True)
class Change:
    """One value of one row in both runs; `reason` says why it cannot be compared, or what the outcome rests on."""

    table: str
    row: str
    value: str
    first: float | None
    second: float | None
    ratio: float | None
    low: float | None
    high: float | None
    outcome: str
    reason: str


def compare_runs(first: Path, second: Path) -> list[Change]:
    """Every value of every table that either run has.

    Raises:
        InputError: a folder that is not there, or whose run is not whole: a table or the record is missing, broken or
            not the one that was written.
    """
    runs = load_runs((_existing(first), _existing(second)))
    for run in runs:
        if run.problems:
            raise InputError(f"compare: {'; '.join(run.problems)}")
    one, other = runs
    changes: list[Change] = []
    for name in dict.fromkeys((*one.tables, *other.tables)):
        if name in one.tables and name in other.tables:
            changes += _compare_table(name, one, other)
        else:
            there = "first" if name in one.tables else "second"
            changes.append(_apart(name, "(all)", f"only the {there} run has the table"))
    return changes


def regressions(changes: Sequence[Change]) -> list[Change]:
    """The values that became worse."""
    return [change for change in changes if change.outcome == WORSE]


def comparable(changes: Sequence[Change]) -> bool:
    """Whether anything could be compared: a gate that compared nothing must not pass."""
    return any(change.outcome != NOT_COMPARABLE for change in changes)


def to_frame(changes: Sequence[Change]) -> pd.DataFrame:
    """All changes as a table."""
    return pd.DataFrame([asdict(change) for change in changes], columns=list(Change.__dataclass_fields__))


def told(changes: Sequence[Change]) -> str:
    """The counts, the rows that are not the same, and why others cannot be compared, in markdown."""
    counts = Counter(change.outcome for change in changes)
    parts = [", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES) + "."]
    order = {outcome: place for place, outcome in enumerate(OUTCOMES[1::-1] + OUTCOMES[2:])}
    listed = [change for change in changes if change.outcome not in (SAME, NOT_COMPARABLE)]
    listed.sort(key=lambda change: order[change.outcome])
    if listed:
        frame = to_frame(listed[:SHOWN])
        frame["interval"] = [
            "" if change.low is None else f"{change.low:.3f} to {change.high:.3f}" for change in listed[:SHOWN]
        ]
        columns = ["outcome", "table", "row", "value", "first", "second", "ratio", "interval", "reason"]
        parts.append(to_markdown(frame[columns]))
        if len(listed) > SHOWN:
            parts.append(f"{len(listed) - SHOWN} more rows are not shown.")
    reasons = Counter((c.table, c.reason) for c in changes if c.outcome == NOT_COMPARABLE)
    if reasons:
        lines = [f"- {table}: {count} not comparable: {reason}" for (table, reason), count in reasons.most_common()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"compare {folder}: no such directory; name the folders of two runs")
    return folder


def _compare_table(name: str, one: Run, other: Run) -> Iterator[Change]:
    tables = (one.tables[name], other.tables[name])
    protocol = protocol_of(name, tables[0])
    if protocol is None:
        return
    if lacking := [key for key in protocol.keys if any(key not in table for table in tables)]:
        yield _apart(name, "(all)", f"other schema: a table has no column {', '.join(lacking)}")
        return
    if other_facts := _unlike(one, other, protocol.facts):
        yield _apart(name, "(all)", other_facts)
        return
    rows = [_by_key(table, protocol) for table in tables]
    for key in dict.fromkeys((*rows[0], *rows[1])):
        label = ", ".join(part for part in key if part)
        if key not in rows[0] or key not in rows[1]:
            yield _apart(name, label, f"only in the {'first' if key in rows[0] else 'second'} run")
            continue
        pair = (rows[0][key], rows[1][key])
        if unlike := _unlike_columns(pair, protocol.same):
            yield _apart(name, label, unlike)
            continue
        if "verdict" in pair[0] and "verdict" in pair[1] and (verdict := _verdicts(name, label, pair)):
            yield verdict
        for column, better in protocol.values.items():
            yield from _value(name, label, column, better, pair, (one, other), protocol)


def _value(
    name: str,
    label: str,
    column: str,
    better: int,
    pair: tuple[Mapping[str, Any], Mapping[str, Any]],
    runs: tuple[Run, Run],
    protocol: Protocol,
) -> Iterator[Change]:
    """The change of one value; none where both lack it."""
    first, second = (_number(row.get(column)) for row in pair)
    if first is None and second is None:
        return
    if first is None or second is None:
        yield _apart(name, label, f"only the {'second' if first is None else 'first'} run has a number", column)
        return
    if better == EITHER and column == "value":
        better = direction(str(pair[0].get("metric", "")))
    if first == second:
        yield Change(name, label, column, first, second, 1.0, None, None, SAME, "")
        return
    ratio = second / first if first else None
    interval, basis = _interval(column, pair, runs, protocol) if ratio is not None else (None, "")
    outcome = _outcome(ratio, interval, better, protocol.exact)
    low, high = interval or (None, None)
    yield Change(name, label, column, first, second, ratio, low, high, outcome, basis)


def _interval(
    column: str, pair: tuple[Mapping[str, Any], Mapping[str, Any]], runs: tuple[Run, Run], protocol: Protocol
) -> tuple[Interval | None, str]:
    """The interval of second / first, and what it is from."""
    if column == "ms_median":
        first, second = (samples_of(run.record, row) for run, row in zip(runs, pair, strict=True))
        if first and second:
            return median_ratio(first, second), f"raw samples, {len(first)} and {len(second)} rounds"
    for ends in (tuple(f"{column}_{end}" for end in protocol.ends), protocol.ends):
        numbers = [tuple(_number(row.get(name)) for name in (column, *ends)) for row in pair]
        if all(part is not None for each in numbers for part in each):
            return combined(*numbers), "both intervals"  # type: ignore[arg-type]
    return None, "no interval is stored"


def _outcome(ratio: float | None, interval: Interval | None, better: int, exact: bool) -> str:
    """The word for a ratio of second / first that is not 1."""
    if exact or ratio is None:
        return CHANGED
    if interval is None:
        return UNDECIDED
    low, high = interval
    if low <= 1 + MARGIN and high >= 1 - MARGIN:
        return UNDECIDED
    if better == EITHER:
        return CHANGED
    return BETTER if (low > 1) == (better == HIGHER) else WORSE


def _verdicts(name: str, label: str, pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Change | None:
    """A verdict that is another one: worse where it steps down, or where a number is not measured any more."""
    first, second = (str(row["verdict"]) for row in pair)
    if first == second:
        return None
    worse = (first, second) in _STEP_DOWN or (first in _LOST and second == "not run")
    better = (second, first) in _STEP_DOWN or (second in _LOST and first == "not run")
    outcome = WORSE if worse else BETTER if better else CHANGED
    return Change(name, label, "verdict", None, None, None, None, None, outcome, f"{first} became {second}")


def _by_key(table: pd.DataFrame, protocol: Protocol) -> dict[tuple[str, ...], Mapping[str, Any]]:
    rows: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in table.to_dict("records"):
        # An empty cell is nan in one table and text in another.
        key = tuple("" if _empty(row[name]) else f"{row[name]:g}" if _is_float(row[name]) else str(row[name])
                    for name in protocol.keys)  # fmt: skip
        rows.setdefault(key, {str(column): value for column, value in row.items()})
    return rows


def _unlike(one: Run, other: Run, facts: Sequence[str]) -> str:
    """The first fact of the records that differs, in words; schema first; empty: none does."""
    for fact in ("schema_version", *facts):
        first, second = (run.machine if fact == "machine" else _fact(run.record, fact) for run in (one, other))
        if first != second:
            return f"other {fact.replace('schema_version', 'schema').split('.')[-1]}: {first} and {second}"
    return ""


def _unlike_columns(pair: tuple[Mapping[str, Any], Mapping[str, Any]], columns: Sequence[str]) -> str:
    for column in columns:
        first, second = (row.get(column) for row in pair)
        if not (_empty(first) and _empty(second)) and first != second:
            return f"other {column}: {first} and {second}"
    return ""


def _fact(record: Mapping[str, Any], path: str) -> Any:
    found: Any = record
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _apart(table: str, row: str, reason: str, value: str = "") -> Change:
    return Change(table, row, value, None, None, None, None, None, NOT_COMPARABLE, reason)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def _empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
