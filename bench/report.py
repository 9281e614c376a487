"""Tables for people: the overview that `reproduce` prints, and the main table of README.md."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench import environment, results
from bench.verdict import VERDICTS, SummaryRow
from dydit.errors import InputError
from dydit.files import atomic_path

README = environment.ROOT / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


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
    return f"{results.to_markdown(frame)}\n\n{len(rows)} published numbers and claims: {totals}."


def committed_run(directory: Path = environment.ROOT / "results") -> Path:
    """The one run under results/ that has a summary, apart from `local`.

    Raises:
        InputError: none or several.
    """
    runs = sorted(path.parent for path in directory.glob("*/summary.csv") if path.parent.name != "local")
    if len(runs) != 1:
        names = ", ".join(run.name for run in runs) or "none"
        raise InputError(f"results: runs with a summary: {names}; choose one with --results DIR")
    return runs[0]


def update_readme(directory: Path, check: bool = False, readme: Path = README) -> bool:
    """Put the overview of `directory` between README's markers; True if it stood there already.

    Raises:
        InputError: no summary or record in the directory, or no markers in the README.
    """
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise InputError(f"{readme.name}: markers {BEGIN} and {END} not found; put them where the table belongs")
    record = results.read_run(directory)
    where = os.path.relpath(directory, readme.parent)
    source = (
        f"From [{where}/summary.csv]({where}/summary.csv), made by `{record['command']}` at commit "
        f"{str(record['commit'])[:12]} on {environment.machine_name(record)}."
    )
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    body = f"{BEGIN}\n{overview(results.read_summary(directory))}\n\n{source}\n{END}"
    wanted = head + body + tail
    if wanted == text:
        return True
    if not check:
        with atomic_path(readme) as partial:
            partial.write_text(wanted, encoding="utf-8")
    return False


def _short(value: float | None) -> float | None:
    """Five significant digits: as many as the tolerances need."""
    return None if value is None else float(f"{value:.5g}")
