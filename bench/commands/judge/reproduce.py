"""`python -m bench reproduce`, the main job: measure, compare with the paper, write tables and a verdict per claim."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bench.claims import SummaryRow, any_deviates, findings_count
from bench.options import DataOptions, OutputOptions, StrictOptions, option
from bench.records import take_results
from bench.report.page import write_page
from bench.report.scoreboard import closing, score_frame, waits_for
from bench.reproduction.reproduce import reproduce
from bench.reproduction.single import reproduce_claim
from bench.studies.samples import DIRECTORY


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(StrictOptions, DataOptions, OutputOptions):
    """How much to measure, and with which files."""

    tier: str = option(
        "default", help="smoke (3 minutes), default (15 minutes), or full, which needs the files that `plan` names"
    )
    checkpoints: Path | None = option(None, help="directory of the study's checkpoints, if not the committed ones")
    claim: str | None = option(
        None, metavar="ID", help="judge this one published number, by its claim_id in summary.csv, and nothing else"
    )


OPTIONS = ReproduceOptions
PAGE = "report.html"


def run(options: ReproduceOptions) -> int:
    """Reproduce; the exit status."""
    if options.claim is not None:
        options.refuse(("tier", "checkpoints", "data_root"), "--claim judges one number by itself")
        row = reproduce_claim(options.claim, options.out)
        print(_told(row))
        return int(options.strict and any_deviates([row]))
    began = time.monotonic()
    with take_results(options.out) as results:
        made = reproduce(results, options.tier, options.checkpoints or DIRECTORY, options.data_root)
        results.write_table(score_frame(made.rows), "scoreboard")
        results.discard(PAGE)
        results.write_record(made.record | {"seconds": round(time.monotonic() - began)})
        page = write_page([options.out], options.out / PAGE)
    print(closing(made.rows))
    print(f"\n{findings_count(made.findings)}")
    print(f"Tables: {options.out}/scoreboard.md, summary.md, findings.md, quality.md, flops.md; each as .csv, too")
    print(f"Page: {page}")
    return int(options.strict and any_deviates(made.rows))


def _told(row: SummaryRow) -> str:
    """One row, a line for each thing that a reader asks."""
    unit = f" {row.unit}" if row.unit else ""
    lines = [
        f"{row.claim_id}: {row.verdict}",
        f"{row.paper_table}, {row.row}, {row.metric}",
        f"published {'nothing that could be read' if row.published is None else f'{row.published:g}{unit}'}"
        f" ({row.confidence})",
    ]
    if row.measured is not None:
        lines.append(f"measured  {row.measured:.6g}{unit}, tolerance {row.tolerance}; {row.evidence}")
    else:
        lines.append(f"waits for {waits_for(row)}")
    return "\n".join([*lines, *([row.note] if row.note else [])])
