"""`python -m bench reproduce`, the main job: measure, compare with the paper, write tables and a verdict per claim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.claims.summary import any_deviates, overview
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
    rows = reproduce(options.out, options.tier, options.checkpoints or DIRECTORY, options.data_root)
    print(overview(rows))
    print(f"\n{len(rows)} rows in {options.out}/summary.csv and summary.md")
    return int(options.strict and any_deviates(rows))
