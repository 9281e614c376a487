"""The whole of `bench compare-methods`: methods trained where need be, counted, timed, scored, set in one table."""

from __future__ import annotations

import time

import pandas as pd

from bench.comparison.figure import write_figure
from bench.comparison.job import ComparisonOptions, prepare_comparison
from bench.comparison.scores import Scoring, score_entries
from bench.comparison.table import methods_table
from bench.comparison.timing import Timings, measure_runs
from bench.machine import arithmetic
from bench.records import write_run, write_table


def compare_methods(options: ComparisonOptions) -> pd.DataFrame:
    """Train what is missing, measure, and write methods, method_scores, methods.png and run.json to `options.out`.

    Raises:
        InputError: as `prepare_comparison`, or an operator of unknown cost.
    """
    began = time.monotonic()
    job = prepare_comparison(options)
    after_training = time.monotonic()
    scoring = Scoring(job.study, job.models, job.out / "scores", options.images, tuple(options.seeds))
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
    write_table(scores, job.out, "method_scores")
    write_table(frame, job.out, "methods")
    write_figure(frame, job.out)
    write_run(job.record | {"trained": job.trained, "seconds": seconds, "samples": samples}, job.out)
    return frame
