"""`python -m bench report`: the generated parts of README.md, the index of results/, and the report page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.options import Options, option
from bench.report.figures.front import update_picture
from bench.report.index import update_index
from bench.report.page import write_page
from bench.report.readme import RUNS, SECTIONS, committed_run, update_section
from bench.report.runs import run_folders
from dydit import InputError


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """The runs to show, and whether to write."""

    results: Path | None = option(None, help="directory of a `reproduce` run, if not the committed one")
    speed: Path | None = option(None, help="directory of a `latency` run, if not the committed one")
    speed_bf16: Path | None = option(None, help="the same in bfloat16")
    study: Path | None = option(None, help="directory of a `small-scale` run on digits, if not the committed one")
    clothes: Path | None = option(None, help="the same on photographs of clothes")
    check: bool = option(False, help="change nothing; exit with status 1 if a page is out of date")
    page: Sequence[Path] | None = option(
        None, metavar="DIR", help="write only the page of these run folders, report.html in the first of them"
    )


OPTIONS = ReportOptions


def run(options: ReportOptions) -> int:
    """Write the pages, or check them; the exit status."""
    if options.page:
        options.refuse(vars(options).keys() - {"page"}, "--page writes the page of its folders alone")
        return _page_of(options.page)
    runs = {name: getattr(options, name) or committed_run(name) for name in RUNS}
    current = [update_section(runs, name, check=options.check) for name in SECTIONS]
    current.append(update_index(check=options.check))
    current.append(update_picture(check=options.check))
    if options.check and not all(current):
        print("a page does not show these results; run `nox -s report`", file=sys.stderr)
    if not options.check:
        print(write_page(run_folders()))
    return int(options.check and not all(current))


def _page_of(folders: Sequence[Path]) -> int:
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"page {folder}: no such directory; name the folders of runs")
    print(write_page(folders, folders[0] / "report.html"))
    return 0
