"""`python -m bench compare FIRST SECOND`: what changed between two runs, row by row."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.options import Options, option
from bench.records import take_directory, write_table
from bench.report.comparing.compare import comparable, compare_runs, regressions, to_frame, told


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Two runs, and what to do about what changed."""

    first: Path = option(positional=True, metavar="FIRST", help="folder of a run")
    second: Path = option(
        positional=True, metavar="SECOND", help="folder of another one, whose values are divided by the first's"
    )
    fail_on_regression: bool = option(
        False, help="exit with status 1 when a value is worse, or when nothing could be compared"
    )
    out: Path | None = option(None, help="directory for comparison.csv, if it is to be kept")


OPTIONS = CompareOptions


def run(options: CompareOptions) -> int:
    """Compare and print; the exit status."""
    changes = compare_runs(options.first, options.second)
    if options.out:
        with take_directory(options.out):
            write_table(to_frame(changes), options.out, "comparison")
    print(told(changes))
    if options.fail_on_regression and not comparable(changes):
        print("nothing could be compared, so that nothing is known to be as good as before", file=sys.stderr)
        return 1
    return int(options.fail_on_regression and bool(regressions(changes)))
