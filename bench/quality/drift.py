"""Drift: how far the images of one model lie from those that another drew from the same noise and labels.

Image by image by mean squared error and PSNR, and as sets by FID. A model against itself reads 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.data import shards
from bench.data.image_set import Images
from bench.machine import track
from bench.quality.features import BATCH_SIZE, Weights, extractor
from bench.quality.features.extraction import stream_features
from bench.quality.metrics.frechet import fid
from bench.quality.metrics.resampling import percentile_interval
from dydit import InputError

PEAK = 255.0
RESAMPLES = 1000
COLUMNS = ("metric", "unit", "value", "low", "high")
_SAME_DRAWS = ("seed", "sampler", "steps", "scale", "classes")
"""What two runs must share, so that image k of both began with the same noise and label and went the same way."""


@dataclass(frozen=True)
class Drift:
    """Two sets image by image: `errors` (N,) are mean squared errors of bytes, `fid` is that between the sets."""

    errors: NDArray[np.float64]
    fid: float

    def psnr(self) -> NDArray[np.float64]:
        """Peak signal-to-noise ratio of each image in dB (N,); infinite where both are equal."""
        with np.errstate(divide="ignore"):
            ratios: NDArray[np.float64] = 10 * np.log10(PEAK**2 / self.errors)
        return ratios

    def rows(self, fid_name: str) -> list[dict[str, Any]]:
        """Rows of drift.csv; intervals (95 %) are over resampled images."""
        rng = np.random.default_rng(0)
        drawn = rng.integers(len(self.errors), size=(RESAMPLES, len(self.errors)))
        means = percentile_interval(self.errors[drawn].mean(axis=1), 0.95)
        # Of the errors, and not of the PSNR, which is infinite for equal images.
        medians = percentile_interval(np.median(self.errors[drawn], axis=1), 0.95)
        low, middle, high = Drift(np.array([medians[1], np.median(self.errors), medians[0]]), 0.0).psnr().tolist()
        table = [
            ("MSE", "bytes squared, mean", self.errors.mean(), *means),
            ("PSNR", "dB, median", middle, low, high),
            ("identical", "share of images", (self.errors == 0).mean(), None, None),
            (fid_name, "between the two sets", self.fid, None, None),
        ]
        return [dict(zip(COLUMNS, row, strict=True)) for row in table]


def check_pair(one: Path, other: Path) -> None:
    """Refuse two directories that are not runs of `generate` with the same noise and labels.

    Raises:
        InputError: otherwise; both values of what differs are named.
    """
    for directory in (one, other):
        if not (directory / shards.MANIFEST).is_file():
            raise InputError(
                f"{directory}: not a run of `generate`, it has no {shards.MANIFEST}; --paired compares images that "
                "began with the same noise, give two directories that `generate` wrote"
            )
    first, second = (shards.read_manifest(directory) for directory in (one, other))
    facts = [
        {"images": run.count, "shape": list(run.shape)} | {name: run.identity.get(name) for name in _SAME_DRAWS}
        for run in (first, second)
    ]
    for name in facts[0]:
        if facts[0][name] != facts[1][name]:
            raise InputError(
                f"{one} has {name} {facts[0][name]}, {other} has {facts[1][name]}; pairs need equal ones, generate "
                "one of them again"
            )


def measure_drift(one: Images, other: Images, extractor_name: str, weights: Weights) -> Drift:
    """Compare image k of one set with image k of the other, bytes with bytes.

    Args:
        one: uint8 images.
        other: as many, of the same size, with the same labels.
        extractor_name: of the FID.
        weights: its weights.

    Raises:
        InputError: sets that are no pair, or images that cannot be read.
    """
    if one.size != other.size or len(one) != len(other) or len(one) < 2:
        raise InputError(
            f"{one.name} has {len(one)} images of {one.size}, {other.name} {len(other)} of {other.size}; pairs need "
            "two sets of equal number and size, of at least 2 images"
        )
    extractor(extractor_name).check_size(one.name, one.size)
    if one.has_labels and other.has_labels and not torch.equal(one.labels, other.labels):
        raise InputError(f"{one.name} and {other.name}: labels differ; pairs need the same label for image k")
    pairs = track(range(len(one)), "comparing images")
    errors = [((one[k].double() - other[k].double()) ** 2).mean().item() for k in pairs]
    above, below = (_features(images, extractor_name, weights) for images in (one, other))
    # Two equal sets have equal statistics, and the distance of equal statistics is 0 but for rounding.
    distance = 0.0 if np.array_equal(above, below) else fid(above, below)
    return Drift(np.array(errors), distance)


def drift_images(drift: Drift) -> pd.DataFrame:
    """drift_images.csv: index, mean squared error and PSNR of every pair."""
    return pd.DataFrame({"index": range(len(drift.errors)), "mse": drift.errors, "psnr": drift.psnr()})


def _features(images: Images, name: str, weights: Weights) -> NDArray[np.floating]:
    layer = extractor(name).features_layer
    stream = stream_features(images, name, [layer], weights=weights, batch_size=BATCH_SIZE)
    return np.concatenate([batch[layer] for batch in stream])
