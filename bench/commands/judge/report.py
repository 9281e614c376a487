"""`python -m bench report`: the tables of README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write the tables of README.md from the committed runs"
OUT = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--results", type=Path, help="directory of a `reproduce` run, if not the committed one")
    parser.add_argument("--speed", type=Path, help="directory of a `latency` run, if not the committed one")
    parser.add_argument("--study", type=Path, help="directory of a `small-scale` run, if not the committed one")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is out of date")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    from bench.report.readme import SECTIONS, committed_run, update_readme

    runs = {name: getattr(options, part.run) or committed_run(name) for name, part in SECTIONS.items()}
    current = [update_readme(directory, name, check=options.check) for name, directory in runs.items()]
    if options.check and not all(current):
        print("README.md does not show these results; run `nox -s report`", file=sys.stderr)
    return int(options.check and not all(current))
