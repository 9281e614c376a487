"""The whole of `bench compare-methods`: methods trained where need be, counted, timed, scored, set in one table."""

from __future__ import annotations

import time

import pandas as pd

from bench.comparison.figure import write_figure
from bench.comparison.job import ComparisonOptions, prepared_comparison
from bench.comparison.scores import Scoring, score_entries
from bench.comparison.table import methods_table
from bench.comparison.timing import Timings, measure_runs
from bench.machine import arithmetic


def compare_methods(options: ComparisonOptions) -> pd.DataFrame:
    """Train what is missing, measure, and write methods, method_scores, methods.png and run.json to `options.out`.

    Raises:
        InputError: as `prepared_comparison`, or an operator of unknown cost.
    """
    began = time.monotonic()
    with prepared_comparison(options) as job:
        after_training = time.monotonic()
        kept = job.results.directory / "scores"
        scoring = Scoring(job.study, job.models, kept, options.images, tuple(options.seeds))
        scores = score_entries(scoring, job.entries, job.processes)
        after_scoring = time.monotonic()
        with arithmetic(1, tf32=False):
            timings = Timings(options.batch, options.seconds, options.seeds[0])
            runs, samples = measure_runs(job.entries, job.models, timings)
        frame = methods_table(job.entries, runs, scores)
        seconds = {
            "training": round(after_training - began),
            "scoring": round(after_scoring - after_training),
            "timing": round(time.monotonic() - after_scoring),
        }
        job.results.write_table(scores, "method_scores")
        job.results.write_table(frame, "methods")
        with job.results.new_file("methods.png") as path:
            write_figure(frame, path)
        job.results.write_record(job.record | {"trained": job.trained, "seconds": seconds, "samples": samples})
    return frame
