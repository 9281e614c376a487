"""`python -m bench reproduce`, the main job: measure, compare with the paper, write tables and a verdict per claim."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "measure what can be measured here and judge every published number"
OUT = Path("results/local")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--tier", default="default", help="smoke (3 minutes), default (15 minutes) or full")
    parser.add_argument("--checkpoints", type=Path, help="study checkpoints, if not the committed ones")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="files that tier full needs; `plan` names them")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 when a verdict is `deviates`")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    from bench.claims import findings_overview, overview
    from bench.reproduction import reproduce
    from bench.studies.samples import DIRECTORY

    made = reproduce.reproduce(options.out, options.tier, options.checkpoints or DIRECTORY, options.data_root)
    print(overview(made.rows))
    print(f"\n{findings_overview(made.findings)}")
    print(f"\n{len(made.rows)} rows in {options.out}/summary.csv, {len(made.findings)} in findings.csv")
    return int(options.strict and any(row.verdict == "deviates" for row in made.rows))
