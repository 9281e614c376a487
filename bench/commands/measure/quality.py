"""`python -m bench quality`: metrics of a set of images by the ADM protocol."""

from __future__ import annotations

from bench.claims import any_deviates, overview
from bench.quality.drift_job import run_paired
from bench.quality.job import SHOWN, QualityOptions, run_quality
from bench.records import to_markdown

OPTIONS = QualityOptions


def run(options: QualityOptions) -> int:
    """Measure, and judge a preset; or compare two runs image by image. Returns the exit status."""
    if options.paired is not None:
        print(to_markdown(run_paired(options)))
        return 0
    table, rows = run_quality(options)
    print(to_markdown(table[SHOWN]))
    if rows:
        print(f"\n{overview(rows)}")
    return int(options.strict and any_deviates(rows))
