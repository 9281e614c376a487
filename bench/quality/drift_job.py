"""The whole of `bench quality --paired`: two runs of `generate` opened, compared image by image, and written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.quality.drift import check_pair, drift_images, measure_drift
from bench.quality.features import extractor
from bench.quality.job import EXTRACTOR, QualityOptions
from bench.quality.opening import open_samples, samples_record
from bench.records import environment_record, prepare_output, write_run, write_table
from dydit import InputError


def run_paired(options: QualityOptions) -> pd.DataFrame:
    """Measure the drift between two runs, and write drift.csv, drift_images.csv and run.json to `options.out`.

    Raises:
        InputError: options of the other comparisons, runs that are no pair, or weights that cannot be used.
    """
    assert options.paired is not None, "run_quality compares with a reference"
    others = ("reference", "metrics", "distances", "preset")
    if chosen := [name for name in others if getattr(options, name) is not None]:
        raise InputError(f"--paired compares image by image; leave --{chosen[0]} out")
    if options.samples is None:
        raise InputError("--paired: give the other run as --samples")
    check_pair(Path(options.samples), options.paired)
    directory = prepare_output(options.out)
    spec = extractor(options.extractor or EXTRACTOR)
    weights = spec.weights(options.extractor_weights, options.weights_sha256)
    sources = (options.samples, str(options.paired))
    one, other = (open_samples(source) for source in sources)
    record = environment_record(samples=samples_record(sources[0], one), paired=samples_record(sources[1], other))
    drift = measure_drift(one, other, spec.name, weights)
    table = pd.DataFrame(drift.rows(spec.metric("FID"))).assign(n_samples=len(one))
    write_table(drift_images(drift), directory, "drift_images")
    write_table(table, directory, "drift")
    write_run(record | {"quality": {"extractor": spec.name, "weights_sha256": weights.sha256}}, directory)
    return table
