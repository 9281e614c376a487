"""The whole of `bench quality --paired`: two runs of `generate` opened, compared image by image, and written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from bench.data.image_set import Images
from bench.quality.drift import check_pair, drift_images, measure_drift
from bench.quality.features import extractor
from bench.quality.job import EXTRACTOR, QualityOptions
from bench.quality.opening import open_samples, samples_record
from bench.records import environment_record, take_results
from dydit import InputError

SHOWN = 8
"""Pairs in the picture."""
_LEAST_SIDE = 64
"""Pixels of an image in the picture; smaller images are enlarged, pixel by pixel."""


def run_paired(options: QualityOptions) -> pd.DataFrame:
    """Measure the drift between two runs; write drift.csv, drift_images.csv, pairs.png and run.json to `options.out`.

    Raises:
        InputError: options of the other comparisons, runs that are no pair, or weights that cannot be used.
    """
    assert options.paired is not None, "run_quality compares with a reference"
    others = ("reference", "metrics", "distances", "preset", "resamples", "data_root", "strict")
    options.refuse(others, "--paired compares two runs image by image")
    if options.samples is None:
        raise InputError("--paired: give the other run as --samples")
    check_pair(Path(options.samples), options.paired)
    with take_results(options.out) as results:
        spec = extractor(options.extractor or EXTRACTOR)
        weights = spec.weights(options.extractor_weights, options.weights_sha256)
        sources = (options.samples, str(options.paired))
        one, other = (open_samples(source) for source in sources)
        record = environment_record(samples=samples_record(sources[0], one), paired=samples_record(sources[1], other))
        drift = measure_drift(one, other, spec.name, weights)
        table = pd.DataFrame(drift.rows(spec.metric("FID"))).assign(n_samples=len(one))
        results.write_table(drift_images(drift), "drift_images")
        results.write_table(table, "drift")
        with results.new_file("pairs.png") as path:
            write_pairs(other, one, path)
        results.write_record(record | {"quality": {"extractor": spec.name, "weights_sha256": weights.sha256}})
    return table


def write_pairs(first: Images, second: Images, path: Path) -> None:
    """Write the first images of two sets as a picture of three rows: the first set, the second, and their difference.

    Args:
        first: images (3, H, W) uint8 of the model that was there before.
        second: those of the other model, from the same noise.
        path: of the PNG file.
    """
    from torchvision.utils import make_grid, save_image

    rows = [torch.stack([images[index] for index in range(min(SHOWN, len(first)))]) for images in (first, second)]
    rows.append((rows[0].int() - rows[1].int()).abs().byte())
    scale = max(1, -(-_LEAST_SIDE // rows[0].shape[-1]))
    grid = make_grid(torch.cat(rows), nrow=len(rows[0]), padding=1, pad_value=255)
    large = grid.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    save_image(large.float() / 255, path, format="png")
