"""`python -m bench report`: the tables of README.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.options import option
from bench.report.index import update_index
from bench.report.readme import SECTIONS, committed_run, update_readme


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The runs to show, and whether to write."""

    results: Path | None = option(None, help="directory of a `reproduce` run, if not the committed one")
    speed: Path | None = option(None, help="directory of a `latency` run, if not the committed one")
    study: Path | None = option(None, help="directory of a `small-scale` run, if not the committed one")
    check: bool = option(False, help="change nothing; exit with status 1 if a page is out of date")


OPTIONS = ReportOptions


def run(options: ReportOptions) -> int:
    """Write the tables, or check them; the exit status."""
    runs = {name: getattr(options, part.run) or committed_run(name) for name, part in SECTIONS.items()}
    current = [update_readme(directory, name, check=options.check) for name, directory in runs.items()]
    current.append(update_index(check=options.check))
    if options.check and not all(current):
        print("README.md or results/README.md does not show these results; run `nox -s report`", file=sys.stderr)
    return int(options.check and not all(current))
