"""The sections of the page that are tables: published numbers, findings, all tables of a run, provenance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.claims import SummaryRow, findings_count
from bench.report.answers import speed_rows
from bench.report.index import TABLES
from bench.report.runs import Run
from bench.report.scoreboard import scores
from bench.report.tables import Table, claims_table

_SHOWN = frozenset({"summary", "findings", "questions", "scoreboard"})
"""Tables that have a section of their own."""


@dataclass(frozen=True)
class Section:
    """A heading of the page with tables under it; `open` where it is shown unfolded."""

    anchor: str
    title: str
    tables: tuple[Table, ...]
    words: str = ""
    open: bool = True


def published_sections(runs: Sequence[Run], rows: Sequence[SummaryRow]) -> list[Section]:
    """A section for each published table, with a row for each number and each machine that measured it."""
    waiting = {row.claim_id for row in rows if row.verdict == "not run"}
    by_table: dict[str, list[tuple[str, SummaryRow]]] = {score.table: [] for score in scores(rows)}
    for run in runs:
        for row in run.summary:
            if row.verdict != "not run":
                by_table[row.paper_table].append((run.machine, row))
    for row in rows:
        if row.claim_id in waiting:
            by_table[row.paper_table].append(("", row))
    speeds = speed_rows(runs).rename(columns={"run": "evidence, or what it waits for"})
    speeds["metric"] = [f"times as fast here, {row.dtype}, batch {row.batch}" for row in speeds.itertuples()]
    speeds["note"] = [
        f"95 % interval {low:.2f} to {high:.2f}" for low, high in zip(speeds["low"], speeds["high"], strict=True)
    ]
    speeds["verdict"] = "another machine: not judged"
    sections = []
    for table, own in by_table.items():
        timed = speeds if table == "DyDiT, Table 8" else speeds[:0]
        judged = any(row.measured is not None for _, row in own)
        sections.append(Section(_anchor(table), table, (claims_table(table, own, timed),), open=judged))
    return sections


def findings_sections(runs: Sequence[Run]) -> list[Section]:
    """A section for each run that has findings, with the answers to its questions."""
    sections = []
    for run in runs:
        tables = []
        if run.findings:
            columns = [
                "claim",
                "quantity",
                "measured",
                "low",
                "high",
                "verdict",
                "seeds",
                "rule",
                "note",
                "paper_table",
            ]
            tables.append(Table.of(pd.DataFrame(run.findings)[columns], f"Claims of the paper, tried in {run.place}"))
        if "questions" in run.tables:
            shown = [name for name in ("question", "configurations", "answer") if name in run.tables["questions"]]
            tables.append(Table.of(run.tables["questions"][shown], f"Questions and answers of {run.place}"))
        if tables:
            words = findings_count(run.findings) if run.findings else ""
            sections.append(Section(_anchor(f"findings {run.place}"), run.place, tuple(tables), words))
    return sections


def details_section(run: Run) -> Section:
    """All other tables of a run."""
    tables, left = [], []
    for name, frame in run.tables.items():
        if name in _SHOWN:
            continue
        caption = f"{TABLES.get(name, name.replace('_', ' '))}: {run.file(name + '.csv')}"
        if (table := Table.unless_long(frame, caption)) is None:
            left.append(f"{len(frame)} rows in {run.file(name + '.csv')}")
        else:
            tables.append(table)
    words = f"Too long to be shown: {', '.join(left)}." if left else ""
    return Section(_anchor(f"run {run.place}"), run.place, tuple(tables), words, open=False)


def provenance_table(runs: Sequence[Run]) -> Table:
    """When, where, of what and by which command every run was made."""
    rows = []
    for run in runs:
        torch = run.record.get("torch")
        rows.append(
            {
                "run": run.place,
                "machine": run.machine,
                "date": str(run.record.get("started", ""))[:10],
                "commit": run.commit(),
                "torch": torch.get("version", "") if isinstance(torch, dict) else "",
                "schema": run.record.get("schema_version", ""),
                "tables": ", ".join(run.tables),
                "command": run.command() or "no record",
            }
        )
    frame = pd.DataFrame(rows, columns=["run", "machine", "date", "commit", "torch", "schema", "tables", "command"])
    return Table.of(frame.astype(object), "Every run that this page is made of")


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
