"""The scoreboard: how many numbers of each published table are reproduced, deviate or wait, and for what."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.claims import SummaryRow
from bench.records import to_markdown

WIDTH = 110
"""Columns of a screen."""
NO_COMMAND = "a command that measures it"


@dataclass(frozen=True)
class Score:
    """One published table: its numbers by verdict, and what most of those that were not run wait for."""

    table: str
    numbers: int
    reproduced: int
    deviates: int
    not_run: int
    waits_for: str


def scores(rows: Sequence[SummaryRow]) -> list[Score]:
    """One score per published table, tables of the DyDiT paper first, each paper's in the order of their names."""
    tables = dict.fromkeys(row.paper_table for row in rows)
    return [_score(table, [row for row in rows if row.paper_table == table]) for table in sorted(tables, key=_order)]


def score_lines(rows: Sequence[SummaryRow], page: str) -> str:
    """The scoreboard as a markdown table; the names lead to the sections of `page`, see `anchor`."""
    frame = score_frame(rows).iloc[:-1]
    frame["table"] = [f"[{name}]({page}#{anchor(name)})" for name in frame["table"]]
    return to_markdown(frame)


def anchor(table: str) -> str:
    """A short name for the section of a published table: `dydit-8` for `DyDiT, Table 8`."""
    bare = table.lower().replace("tables", "").replace("table", "")
    return re.sub(r"[^a-z0-9]+", "-", bare).strip("-")


def short_deviation(row: SummaryRow) -> str:
    """A row that deviates in a few words, without the remarks in parentheses: what was printed, measured, and why."""
    name = re.sub(r"\s*\([^)]*\)", "", f"{row.paper_table}, {row.row}, {row.metric}")
    why = row.note.split("; ")[0]
    return f"{name}: {row.published:g} printed, {row.measured:.5g} measured" + (f" ({why})" if why else "")


def closing(rows: Sequence[SummaryRow], lines: int = 8) -> str:
    """The scoreboard and the rows that deviate, as text that fits a screen.

    Args:
        rows: of summary.csv.
        lines: of rows that deviate; of more, their number is told.
    """
    frame = score_frame(rows).astype(str)
    table = [list(frame.columns), *frame.to_numpy().tolist()]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    numbers = range(1, len(widths) - 1)
    text = [
        "  ".join(cell.rjust(widths[n]) if n in numbers else cell.ljust(widths[n]) for n, cell in enumerate(line))
        for line in table
    ]
    found = deviating(rows)
    text = [_short(line.rstrip()) for line in text]
    text += ["", "What deviates:" if found else "Nothing deviates."]
    for line in found[:lines]:
        text += textwrap.wrap(line, WIDTH, initial_indent="- ", subsequent_indent="  ", max_lines=2, placeholder=" …")
    if len(found) > lines:
        text.append(f"- {len(found) - lines} more, in summary.csv")
    return "\n".join(text)


def _short(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def score_frame(rows: Sequence[SummaryRow]) -> pd.DataFrame:
    """A row for each published table, and one for all."""
    found = scores(rows)
    total = Score(
        "all",
        sum(score.numbers for score in found),
        sum(score.reproduced for score in found),
        sum(score.deviates for score in found),
        sum(score.not_run for score in found),
        "",
    )
    return pd.DataFrame(
        [
            {
                "table": score.table,
                "numbers": score.numbers,
                "reproduced": score.reproduced,
                "deviates": score.deviates,
                "not run": score.not_run,
                "most of these wait for": score.waits_for,
            }
            for score in (*found, total)
        ]
    )


def deviating(rows: Sequence[SummaryRow]) -> list[str]:
    """The rows that deviate, a line each: what was printed, what was measured, and why."""
    return [
        f"{row.paper_table}, {row.row}, {row.metric}: {row.published:g} published, {row.measured:.5g} measured"
        + (f"; {row.note}" if row.note else "")
        for row in rows
        if row.verdict == "deviates"
    ]


def _score(table: str, rows: Sequence[SummaryRow]) -> Score:
    verdicts = Counter(row.verdict for row in rows)
    return Score(
        table=table,
        numbers=len(rows),
        reproduced=verdicts["reproduced"],
        deviates=verdicts["deviates"],
        not_run=verdicts["not run"],
        waits_for=_most_wanted([row for row in rows if row.verdict == "not run"]),
    )


def _most_wanted(rows: Sequence[SummaryRow]) -> str:
    """What most rows wait for; several needs of one row count as one, and stand together."""
    if not rows:
        return ""
    (wanted, _), *_ = Counter(waits_for(row) for row in rows).most_common(1)
    return wanted


def waits_for(row: SummaryRow) -> str:
    """What a row that was not run waits for, in words."""
    if row.needs:
        return row.needs.replace("; ", ", ")
    return "being asked for" if row.command else NO_COMMAND


def _order(table: str) -> tuple[bool, str, int, str]:
    """DyDiT before DiT, tables by number."""
    paper, _, name = table.partition(", ")
    digits = "".join(character if character.isdecimal() else " " for character in name).split()
    return (not paper.startswith("DyDiT"), paper, int(digits[0]) if digits else 10**6, name)
