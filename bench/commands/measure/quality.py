"""`python -m bench quality`: metrics of a set of images by the ADM protocol."""

from __future__ import annotations

from bench.claims import any_deviates, overview
from bench.quality.job import SHOWN, QualityOptions, run_quality
from bench.records import to_markdown

OPTIONS = QualityOptions


def run(options: QualityOptions) -> int:
    """Measure, and judge a preset; the exit status."""
    table, rows = run_quality(options)
    print(to_markdown(table[SHOWN]))
    if rows:
        print(f"\n{overview(rows)}")
    return int(options.strict and any_deviates(rows))
