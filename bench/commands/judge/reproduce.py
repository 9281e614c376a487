"""`python -m bench reproduce`, the main job: measure, compare with the paper, write tables and a verdict per claim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.claims import any_deviates, findings_overview, overview
from bench.options import DataOptions, OutputOptions, StrictOptions, option
from bench.reproduction.reproduce import reproduce
from bench.studies.samples import DIRECTORY


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(StrictOptions, DataOptions, OutputOptions):
    """How much to measure, and with which files."""

    tier: str = option(
        "default", help="smoke (3 minutes), default (15 minutes), or full, which needs the files that `plan` names"
    )
    checkpoints: Path | None = option(None, help="directory of the study's checkpoints, if not the committed ones")


OPTIONS = ReproduceOptions


def run(options: ReproduceOptions) -> int:
    """Reproduce; the exit status."""
    made = reproduce(options.out, options.tier, options.checkpoints or DIRECTORY, options.data_root)
    print(overview(made.rows))
    print(f"\n{findings_overview(made.findings)}")
    print(f"\n{len(made.rows)} rows in {options.out}/summary.csv, {len(made.findings)} in findings.csv")
    return int(options.strict and any_deviates(made.rows))
