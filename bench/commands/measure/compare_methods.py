"""`python -m bench compare-methods`: efficient methods and yours, on the digits or at true scale, in one table."""

from __future__ import annotations

from bench.comparison.job import ComparisonOptions
from bench.comparison.run import compare_methods
from bench.comparison.table import SHOWN
from bench.records import to_markdown

OPTIONS = ComparisonOptions


def run(options: ComparisonOptions) -> None:
    """Compare."""
    frame = compare_methods(options)
    print(to_markdown(frame[[name for name in SHOWN if name in frame]]))
