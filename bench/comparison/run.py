"""The whole of `bench compare-methods`: methods trained where need be, counted, timed, scored, set in one table."""

from __future__ import annotations

import time

import pandas as pd
import torch

from bench.comparison.at_scale import UNSCORED, prepare_at_scale
from bench.comparison.figure import write_figure
from bench.comparison.job import ComparisonOptions, prepared_comparison
from bench.comparison.sampled import build
from bench.comparison.scores import Scoring, score_entries
from bench.comparison.table import methods_table
from bench.comparison.timing import Timings, measure_runs
from bench.machine import arithmetic, cpu_threads
from bench.records import take_results


def compare_methods(options: ComparisonOptions) -> pd.DataFrame:
    """Compare, on the digits or at the size of `options.network`; writes methods, methods.png and run.json.

    On the digits what is missing is trained first, and method_scores is written, too.

    Raises:
        InputError: as `prepared_comparison` or `prepare_at_scale`, or an operator of unknown cost.
    """
    return _on_digits(options) if options.network is None else _at_scale(options)


def _on_digits(options: ComparisonOptions) -> pd.DataFrame:
    began = time.monotonic()
    with prepared_comparison(options) as job:
        after_training = time.monotonic()
        kept = job.results.directory / "scores"
        scoring = Scoring(job.study, job.models, kept, options.images, tuple(options.seeds))
        scores = score_entries(scoring, job.entries, job.processes)
        after_scoring = time.monotonic()
        seed = options.seeds[0]
        with arithmetic(1, tf32=False):
            built = {entry.name: build(entry, seed, job.models) for entry in job.entries}
            runs, samples = measure_runs(job.entries, built, Timings(options.batch, options.seconds, seed))
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


def _at_scale(options: ComparisonOptions) -> pd.DataFrame:
    with take_results(options.out) as results:
        job = prepare_at_scale(options)
        with cpu_threads(options.threads or torch.get_num_threads()):
            runs, samples = measure_runs(job.entries, job.built, job.timings)
        frame = methods_table(job.entries, runs, None)
        results.write_table(frame, "methods", lead=UNSCORED)
        with results.new_file("methods.png") as path:
            write_figure(frame, path)
        results.write_record(job.record | {"samples": samples})
    return frame
