"""`python -m bench report`: the tables of README.md and the index of results/."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write the tables of README.md and the index of results/ from the committed runs"
OUT = None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--results", type=Path, help="directory of a `reproduce` run, if not the committed one")
    parser.add_argument("--speed", type=Path, help="directory of a `latency` run, if not the committed one")
    parser.add_argument("--study", type=Path, help="directory of a `small-scale` run, if not the committed one")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is out of date")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    from bench.report.index import update_index
    from bench.report.readme import SECTIONS, committed_run, update_readme

    runs = {name: getattr(options, name) or committed_run(name) for name in SECTIONS}
    current = [update_readme(directory, name, check=options.check) for name, directory in runs.items()]
    current.append(update_index(check=options.check))
    if options.check and not all(current):
        print("README.md or results/README.md does not show these results; run `nox -s report`", file=sys.stderr)
    return int(options.check and not all(current))
