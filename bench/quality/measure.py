"""Quality of generated images: FID, sFID, Inception Score, precision and recall by the ADM protocol, and KID.

One pass over the samples and at most one over the reference give every metric. Statistics are streamed; features are
kept only where a metric or an interval needs them. Precision and recall use the features of FID, the Inception Score
takes the samples in their order, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import image_set
from bench.data.image_set import Images
from bench.quality import values
from bench.quality.compatibility import check_pair, check_weights
from bench.quality.features import extraction, extractors
from bench.quality.features.extractors import Weights
from bench.quality.metrics.distances import EXACT
from bench.quality.passes import SampleFeatures, read_reference_rows, read_samples
from bench.quality.references.build import build_reference
from bench.quality.references.reference import Reference
from bench.quality.settings import Settings, check_settings
from bench.quality.values import Rows, Value


@dataclass(frozen=True)
class Quality:
    """Metrics of one set of samples against one reference, with what they were measured by.

    `arithmetic` says in which precision the extractor computed, see `extraction.describe_arithmetic`.
    """

    samples: str
    reference: str
    extractor: str
    weights_sha256: str
    arithmetic: str
    n_samples: int
    resamples: int
    values: tuple[Value, ...]

    def __getitem__(self, metric: str) -> Value:
        """A value by its bare name, such as `FID`; KeyError where it was not measured."""
        return {value.metric: value for value in self.values}[metric]

    def rows(self) -> list[dict[str, Any]]:
        """One row per metric, named with its extractor: `{"metric": "FID[digits-cnn]", "value": ...}` and evidence."""
        spec = extractors.extractor(self.extractor)
        return [
            {
                "samples": self.samples,
                "reference": self.reference,
                "metric": spec.metric(value.metric),
                "value": value.value,
                "low": value.low,
                "high": value.high,
                "std": value.std,
                "n_samples": self.n_samples,
                "n_reference": value.n_reference,
                "splits": value.splits,
                "extractor": self.extractor,
                "weights_sha256": self.weights_sha256,
                "arithmetic": self.arithmetic,
                "note": value.note,
            }
            for value in self.values
        ]


def measure_quality(
    samples: Images,
    reference: Images | Reference,
    *,
    extractor: str = "digits-cnn",
    weights: Path | Weights | None = None,
    metrics: Sequence[str] | None = None,
    batch_size: int = extraction.BATCH_SIZE,
    resamples: int | None = None,
    seed: int = 0,
    distances: str = EXACT,
) -> Quality:
    """Measure `samples` against a reference; on the GPU when there is one.

    Args:
        samples: in the order in which they were generated.
        reference: images of the same resolution, or statistics by the same extractor.
        extractor: name in `bench.quality.features.extractors.EXTRACTORS`.
        weights: its weights file; by default where the extractor looks.
        metrics: some of `bench.quality.settings.METRICS`; by default all that the extractor has a layer for.
        batch_size: images per forward pass; changes speed and memory only.
        resamples: draws behind each interval, 0 for none; by default 100 up to 128 features, else 0. With intervals
            come `FID-infinity`, and `images_for_0.1`: images that tell a difference of 0.1 in FID from noise.
        seed: of subsets and resamples, and of the random order that tells whether the order of the samples decides the
            Inception Score.
        distances: of precision and recall: `float64`, or `adm-float16`, rounded as in the ADM evaluator, whose numbers
            are some thousandths higher; see `bench.quality.metrics.distances`.

    Returns:
        The metrics in the order of `METRICS`, each followed by what belongs to it.

    Raises:
        InputError: images, weights or a reference that cannot be used or do not belong together, or too few images for
            a metric; before any long work.
    """
    settings = check_settings(extractor, metrics, batch_size, resamples, seed, distances)
    check_pair(settings, samples, reference)
    checked = weights if isinstance(weights, Weights) else settings.spec.weights(weights)
    if isinstance(reference, Images):
        reference = build_reference(
            reference, extractor, checked, name=reference.name, record={}, batch_size=batch_size
        )
    check_weights(reference, checked)
    arithmetic = extraction.describe_arithmetic(settings.spec)  # before the passes, as the flags are then
    reference_rows = read_reference_rows(settings, checked, reference)
    features = read_samples(settings, checked, samples)
    measured = _values(settings, features, reference, reference_rows)
    if features.alike:
        measured = values.warn_of_equal_samples(measured, features.count)
    return Quality(
        samples=samples.name,
        reference=reference.name,
        extractor=extractor,
        weights_sha256=checked.sha256,
        arithmetic=arithmetic,
        n_samples=len(samples),
        resamples=settings.resampling.resamples,
        values=tuple(measured),
    )


def evaluate(
    samples: Tensor, reference: Tensor | Reference, *, extractor: str = "digits-cnn", weights: Path | None = None
) -> Quality:
    """FID, Inception Score, precision, recall and KID of images in memory, without intervals; see `measure_quality`.

    Args:
        samples: uint8 (N, C, H, W) with C = 1 or 3, in the order in which they were generated.
        reference: uint8 (M, C, H, W) of the same resolution, or statistics.
        extractor: name in `bench.quality.features.extractors.EXTRACTORS`.
        weights: its weights file; by default where the extractor looks.

    Raises:
        InputError: as `measure_quality`.
    """
    return measure_quality(
        image_set.of_tensor(samples, "samples"),
        image_set.of_tensor(reference, "reference") if isinstance(reference, Tensor) else reference,
        extractor=extractor,
        weights=weights,
        metrics=("FID", "IS", "precision", "recall", "KID"),
        resamples=0,
    )


def extract(
    pixels: Tensor, layers: Sequence[str], *, extractor: str = "digits-cnn", weights: Path | None = None
) -> dict[str, Tensor]:
    """Features of uint8 (N, C, H, W) by layer name, each (N, D) on the CPU.

    Raises:
        InputError: images or weights that cannot be used.
    """
    batches = list(extraction.stream_features(image_set.of_tensor(pixels, "images"), extractor, layers, weights))
    return {layer: torch.from_numpy(np.concatenate([batch[layer] for batch in batches])) for layer in layers}


def _values(
    settings: Settings, features: SampleFeatures, reference: Reference, reference_rows: Rows | None
) -> list[Value]:
    """The metrics that were asked for, in the order of `METRICS`."""
    spec, metrics, resampling, measured = settings.spec, settings.metrics, settings.resampling, []
    for metric, layer, statistics in (
        ("FID", spec.features_layer, reference.pool),
        ("sFID", spec.spatial_layer, reference.spatial),
    ):
        if metric in metrics:
            assert layer is not None and statistics is not None  # check_settings, check_pair
            own = features.statistics[layer]
            # Samples that are all alike have no scatter, of which an interval could be made.
            rows = None if features.alike else features.rows.get(layer)
            measured += values.frechet_values(metric, own, rows, statistics, resampling)
    if "IS" in metrics:
        assert spec.logits_layer is not None  # check_settings
        logits = features.rows.get(spec.logits_layer)
        probs = None if logits is None else values.probabilities(logits)
        assert features.scores is not None  # read_samples
        measured += values.inception_score_values(features.scores, probs, resampling)
    if spec.features_layer not in features.rows or reference_rows is None:
        pool = features.statistics.get(spec.features_layer)
        return measured if pool is None else values.warn_of_equal_statistics(measured, pool, reference.pool)
    # One dtype on both sides: the same image then has the same features in both sets.
    rows, others = (side.astype(np.float32) for side in (features.rows[spec.features_layer], reference_rows))
    if metrics & {"precision", "recall"}:
        both = values.precision_recall_values(rows, others, settings.distances, resampling)
        measured += [value for value in both if value.metric in metrics]
    if "KID" in metrics:
        measured += values.kid_values(rows, others, resampling)
    return values.warn_of_shared_images(measured, rows, others)
