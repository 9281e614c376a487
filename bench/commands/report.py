"""`python -m bench report`: the main table of README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write the main table of README.md from a run"
OUT = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--results", type=Path, help="directory with summary.csv and run.json; the committed one else")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is out of date")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    from bench import report

    current = report.update_readme(options.results or report.committed_run(), check=options.check)
    if options.check and not current:
        print("README.md does not show these results; run `nox -s report`", file=sys.stderr)
    return int(options.check and not current)
