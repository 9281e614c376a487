"""The words that pages say of runs: what was measured, in a sentence; what holds, in bullets; each published table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims import SummaryRow, findings_count, overview, quantity_kind, read_findings, read_summary
from bench.records import machine_name, read_run, read_table, to_markdown
from bench.report.scoreboard import anchor, scores, short_deviation, waits_for
from dydit import CONVENTIONS

_NETWORK, _TARGET = "DiT-XL/2", 0.5
"""The network that the paper's abstract speaks of."""
_WORK = ("FLOPs", "parameters")


def measured(rows: Sequence[SummaryRow]) -> str:
    """What a run measured of the papers, in one sentence."""
    verdicts = Counter(row.verdict for row in rows)
    kinds = {quantity_kind(row.metric) for row in rows if row.verdict != "not run"}
    left = [kind for kind in ("speed", "quality") if kind not in kinds]
    text = (
        f"Of {len(rows)} printed numbers {verdicts['reproduced']} are reproduced, {verdicts['deviates']} deviate and "
        f"{verdicts['not run']} were not run"
    )
    return text + (f", all of {' and '.join(left)} among them." if left else ".")


def duration(directory: Path) -> str:
    """How long a run of `reproduce` took, and on what, in one sentence."""
    record = read_run(directory)
    if "seconds" not in record:  # of an earlier version
        return "The run that is shown here does not tell how long it took."
    minutes, seconds = divmod(record["seconds"], 60)
    return f"Tier {record['tier']} took {minutes} min {seconds} s on {machine_name(record)} for the verdicts above."


def bullets(results: Path, speeds: Sequence[Path], tried: Sequence[Path]) -> str:
    """What holds, what deviates, what skipping brings, what other data say, and what was not run and why.

    Args:
        results: a run of `reproduce`.
        speeds: runs of `latency` over lambda, the one in float32 first.
        tried: every run with findings.
    """
    rows = read_summary(results)
    judged = [row for row in rows if row.verdict != "not run"]
    work = [row for row in judged if quantity_kind(row.metric) in _WORK]
    facts = [row for row in judged if row not in work]
    lines = [
        f"**Holds:** {_held(work)} FLOPs and parameter counts, {_held(facts)} other numbers of networks and recipes.",
        _deviations(rows),
        _speed(speeds),
        *_tried(tried),
        _not_run(rows),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _held(rows: Sequence[SummaryRow]) -> str:
    return f"{sum(row.verdict == 'reproduced' for row in rows)} of {len(rows)}"


def _deviations(rows: Sequence[SummaryRow]) -> str:
    found = [short_deviation(row) for row in rows if row.verdict == "deviates"]
    return f"**Deviates:** {'; '.join(found) if found else 'nothing'}."


def _speed(directories: Sequence[Path]) -> str:
    rows = [row for row in map(_headline, directories) if row is not None]
    if not rows:
        return f"**Speed:** {_NETWORK} at lambda {_TARGET} was not timed."
    first, *others = rows
    beside = f" as `{first['base']}`, the fastest engine of the static model there," if "base" in first else ""
    lower = "".join(f" In {row['dtype']}, {_times(row)} on {row['where']}." for row in others)
    return (
        f"**Speed:** realised, {_NETWORK} at lambda {_TARGET} is {_times(first)}{beside} on {first['where']}, for "
        f"{1 / first['flops_ratio']:.2f} times fewer multiply-adds; published on a V100: "
        f"{first['published_speedup']:g}.{lower} The masks are drawn to meet the printed FLOPs."
    )


def _headline(directory: Path) -> dict[str, Any] | None:
    """The row of a latency table that the front page tells, and where it was measured; None where it has none."""
    table = read_table(directory, "latency")
    wanted = (table["model"] == _NETWORK) & (table["lambda"] == _TARGET) & (table["engine"] == "realised")
    if not wanted.any():
        return None
    row = {str(column): value for column, value in table[wanted].iloc[0].items()}
    return row | {"where": machine_name(read_run(directory))}


def _times(row: Mapping[str, Any]) -> str:
    return f"{row['speedup']:.2f} times as fast ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"


def _tried(directories: Sequence[Path]) -> list[str]:
    """One bullet for all runs with findings; none without any."""
    if not directories:
        return []
    told, against = [], []
    for directory in directories:
        findings = read_findings(directory)
        counts = findings_count(findings).partition(": ")[2].rstrip(".")
        told.append(f"{directory.name}: {counts}")
        against += [finding.claim for finding in findings if finding.verdict == "contradicted"]
    text = f"**On small models and other data:** {'; '.join(told)}."
    return [text + (f" Contradicted: {'; '.join(dict.fromkeys(against))}." if against else "")]


def _not_run(rows: Sequence[SummaryRow]) -> str:
    waiting = [row for row in rows if row.verdict == "not run"]
    needs = Counter(need for row in waiting for need in (row.needs.split("; ") if row.needs else [waits_for(row)]))
    told = ", ".join(f"{count} for {need}" for need, count in needs.most_common(5))
    return f"**Not run:** {len(waiting)}; {told} (one may wait for several). Each row says what would measure it."


def conventions(directory: Path) -> str:
    """What each convention counts, and its total of the network of the paper's abstract, as a markdown table."""
    table = read_table(directory, "flops")
    rows = table[(table["model"] == _NETWORK) & (table["resolution"] == 256) & (table["counter"] == "closed form")]
    totals = rows.drop_duplicates("convention").set_index("convention")["gmacs"].to_dict()
    frame = pd.DataFrame(
        [
            {
                "convention": f"`{each.name}`",
                "LayerNorm per element": each.layer_norm,
                "counts": each.meaning,
                f"{_NETWORK} at 256 (G)": f"{totals[each.name]:.2f}" if each.name in totals else "",
            }
            for each in CONVENTIONS
        ]
    )
    return to_markdown(frame)


def published_tables(rows: Sequence[SummaryRow]) -> str:
    """A heading for each published table, with its judged rows and what the others wait for."""
    parts = []
    for score in scores(rows):
        own = [row for row in rows if row.paper_table == score.table]
        judged = [row for row in own if row.verdict != "not run"]
        waits = Counter(waits_for(row) for row in own if row.verdict == "not run")
        parts.append(f'<a id="{anchor(score.table)}"></a>\n\n### {score.table}')
        if judged:
            # The coverage, which opens it, stands above all tables.
            parts.append(overview(judged).partition("\n\n")[2])
        if waits:
            told = "; ".join(f"{count} for {need}" for need, count in waits.most_common())
            parts.append(f"Not run: {score.not_run} of {score.numbers}, which wait: {told}.")
    return "\n\n".join(parts)
