"""Quality of generated images: FID, sFID, Inception Score, precision, recall and KID by the ADM protocol.

One pass over the samples and at most one over the reference give every metric. Statistics are streamed; features are
kept only where a metric or an interval needs them. Precision and recall use the features of FID, the Inception Score
keeps the samples in order, and nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import image_set
from bench.data.image_set import Images
from bench.quality.features import extraction, extractors
from bench.quality.features.extractors import ExtractorSpec, Weights
from bench.quality.metrics.inception_score import ScoreMoments
from bench.quality.metrics.moments import Moments, Statistics
from bench.quality.references.build import build_reference
from bench.quality.references.reference import Reference
from bench.quality.values import (
    NEIGHBOURS,
    SPLITS,
    Resampling,
    Rows,
    Value,
    frechet,
    inception_score,
    kernel,
    precision_recall,
    probabilities,
    split_size,
)
from dydit import InputError

METRICS = ("FID", "sFID", "IS", "precision", "recall", "KID")
RESAMPLES = 100
FEW_DIMENSIONS = 128
"""Up to so many features intervals are measured unasked; at 2048 a resample of the FID costs about a second."""
_LEAST = {"FID": 2, "sFID": 2, "KID": 2, "precision": NEIGHBOURS + 1, "recall": NEIGHBOURS + 1, "IS": SPLITS}
_POINTWISE = frozenset({"precision", "recall", "KID"})  # these compare images, not statistics


@dataclass(frozen=True)
class Quality:
    """Metrics of one set of samples against one reference, with what they were measured by."""

    samples: str
    reference: str
    extractor: str
    weights_sha256: str
    n_samples: int
    resamples: int
    values: tuple[Value, ...]

    def __getitem__(self, metric: str) -> Value:
        """A value by its bare name, such as `FID`; KeyError where it was not measured."""
        return {value.metric: value for value in self.values}[metric]

    def rows(self) -> list[dict[str, Any]]:
        """One row a metric, named with its extractor: `{"metric": "FID[digits-cnn]", "value": ...}` and evidence."""
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
    metrics: Sequence[str] = METRICS,
    batch_size: int = extraction.BATCH_SIZE,
    resamples: int | None = None,
    seed: int = 0,
) -> Quality:
    """Measure `samples` against a reference; on the GPU when there is one.

    Args:
        samples: in the order in which they were generated.
        reference: images of the same resolution, or statistics by the same extractor.
        extractor: name in `features.EXTRACTORS`.
        weights: its weights file; by default where the extractor looks.
        metrics: some of `METRICS`.
        batch_size: images per forward pass; changes speed and memory only.
        resamples: draws behind each interval, 0 for none; by default 100 up to 128 features, else 0. With intervals
            come `FID-infinity`, and `images_for_0.1`: images that tell a difference of 0.1 in FID from noise.
        seed: of subsets and resamples.

    Returns:
        The metrics in the order of `METRICS`, each followed by what belongs to it.

    Raises:
        InputError: images, weights or a reference that cannot be used or do not belong together, or too few images for
            a metric; before any long work.
    """
    spec = extractors.extractor(extractor)
    if resamples is None:
        resamples = RESAMPLES if spec.dimensions[spec.features_layer] <= FEW_DIMENSIONS else 0
    if batch_size < 1 or resamples < 0 or resamples == 1:
        raise InputError(
            f"batch size {batch_size}, {resamples} resamples; at least 1 image a batch, and 0 or at least 2 resamples"
        )
    wanted = _wanted(metrics)
    _check_pair(samples, reference, spec, wanted)
    checked = weights if isinstance(weights, Weights) else spec.weights(weights)
    if isinstance(reference, Images):
        reference = build_reference(
            reference, extractor, checked, name=reference.name, record={}, batch_size=batch_size
        )
    _check_weights(reference, checked)
    job = _Job(spec, checked, wanted, batch_size, Resampling(resamples, seed))
    points = _reference_points(job, reference)
    values = _values(job, _gather(job, samples), reference, points)
    return Quality(samples.name, reference.name, extractor, checked.sha256, len(samples), resamples, tuple(values))


def evaluate(
    samples: Tensor, reference: Tensor, *, extractor: str = "digits-cnn", weights: Path | None = None
) -> Quality:
    """FID, Inception Score, precision and recall of images in memory, without intervals; see `measure`.

    Args:
        samples: uint8 (N, C, H, W) with C = 1 or 3, in the order they were generated.
        reference: uint8 (M, C, H, W) of the same resolution.
        extractor: name in `features.EXTRACTORS`.
        weights: its weights file; by default where the extractor looks.

    Raises:
        InputError: as `measure`.
    """
    return measure_quality(
        image_set.of_tensor(samples, "samples"),
        image_set.of_tensor(reference, "reference"),
        extractor=extractor,
        weights=weights,
        metrics=("FID", "IS", "precision", "recall"),
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


@dataclass(frozen=True)
class _Job:
    spec: ExtractorSpec
    weights: Weights
    metrics: frozenset[str]
    batch_size: int
    drawn: Resampling


@dataclass
class _Gathered:
    """What one pass leaves: statistics and kept rows by layer, and the Inception Score."""

    count: int
    statistics: dict[str, Statistics] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    score: tuple[float, float] = (math.nan, math.nan)


def _gather(job: _Job, samples: Images) -> _Gathered:
    """The one pass over the samples; no more layers, and no more rows, than the metrics need."""
    spec, resampled = job.spec, job.drawn.resamples > 0
    by_metric = {"FID": spec.features_layer, "sFID": spec.spatial_layer, "IS": spec.logits_layer}
    layers = {layer for metric, layer in by_metric.items() if metric in job.metrics}
    kept = layers.copy() if resampled else set()
    if job.metrics & _POINTWISE:
        kept.add(spec.features_layer)
    moments = {layer: Moments(spec.dimensions[layer]) for layer in layers - {spec.logits_layer}}
    score = ScoreMoments(spec.dimensions[spec.logits_layer], split_size(len(samples)))
    gathered = _Gathered(len(samples))
    start = 0
    for batch in extraction.stream_features(
        samples, spec.name, sorted(layers | kept), job.weights, job.batch_size, f"features of {samples.name}"
    ):
        for layer, rows in batch.items():
            if layer in moments:
                moments[layer].update(rows)
            elif layer == spec.logits_layer:
                score.update(probabilities(rows))
            if layer in kept:
                if not start:
                    gathered.rows[layer] = np.empty((len(samples), rows.shape[1]), rows.dtype)
                gathered.rows[layer][start : start + len(rows)] = rows
        start += len(rows)
    gathered.statistics = {layer: moment.statistics() for layer, moment in moments.items()}
    if "IS" in job.metrics:
        gathered.score = score.score()
    return gathered


def _reference_points(job: _Job, reference: Reference) -> Rows | None:
    """Features of reference images for the metrics that compare points; read off the images where there are none."""
    if not job.metrics & _POINTWISE or reference.rows is not None:
        return reference.rows
    assert reference.images is not None  # _check_reference
    layer = job.spec.features_layer
    label = f"reference {reference.name}"
    stream = extraction.stream_features(reference.images, job.spec.name, [layer], job.weights, job.batch_size, label)
    return np.concatenate([batch[layer] for batch in stream])


def _values(job: _Job, gathered: _Gathered, reference: Reference, points: Rows | None) -> list[Value]:
    """The metrics asked for, in the order of `METRICS`."""
    spec, drawn, values = job.spec, job.drawn, []
    for metric, layer, gaussian in (
        ("FID", spec.features_layer, reference.pool),
        ("sFID", spec.spatial_layer, reference.spatial),
    ):
        if metric in job.metrics:
            assert gaussian is not None  # _check_reference
            own = gathered.statistics[layer]
            values += frechet(metric, own, gathered.rows.get(layer), gaussian, drawn)
    if "IS" in job.metrics:
        logits = gathered.rows.get(spec.logits_layer)
        probs = None if logits is None else probabilities(logits)
        values += inception_score(gathered.count, gathered.score, probs, drawn)
    if job.metrics & _POINTWISE:
        assert points is not None  # _reference_points
        rows = gathered.rows[spec.features_layer]
        if job.metrics & {"precision", "recall"}:
            both = precision_recall(rows, points, drawn)
            values += [value for value in both if value.metric in job.metrics]
        if "KID" in job.metrics:
            values += kernel(rows, points, drawn)
    return values


def _wanted(metrics: Sequence[str]) -> frozenset[str]:
    if not metrics or not set(metrics) <= set(METRICS):
        unknown = ", ".join(metric for metric in metrics if metric not in METRICS) or "none"
        raise InputError(f"metrics: {unknown} asked for; choose from {', '.join(METRICS)}")
    return frozenset(metrics)


def _check_pair(samples: Images, reference: Images | Reference, spec: ExtractorSpec, wanted: frozenset[str]) -> None:
    """Samples and reference usable, belonging together, and enough of each.

    Raises:
        InputError: otherwise; both are named where they do not belong together.
    """
    spec.check_size(samples.name, samples.size)
    if reference.size not in (None, samples.size):
        sides = [f"{side.name} has {side.size[0]}x{side.size[1]} pixels" for side in (samples, reference) if side.size]
        raise InputError(f"{', '.join(sides)}; samples and reference must have one resolution")
    _check_count(samples.name, len(samples), wanted)
    if isinstance(reference, Images):
        _check_count(reference.name, len(reference), (wanted | {"FID"}) - {"IS"})
    else:
        _check_reference(reference, spec, wanted)


def _check_count(name: str, count: int, wanted: frozenset[str]) -> None:
    metric = max(sorted(wanted), key=_LEAST.__getitem__)
    if count < _LEAST[metric]:
        use = f"{SPLITS} splits of the Inception Score need" if metric == "IS" else f"{metric} needs"
        raise InputError(f"{name}: {count} images; {use} at least {_LEAST[metric]}, add images or leave the metric out")


def _check_reference(reference: Reference, spec: ExtractorSpec, wanted: frozenset[str]) -> None:
    """Statistics by the same extractor, with all that the metrics need.

    Raises:
        InputError: otherwise; both extractors are named.
    """
    name = f"reference {reference.name}"
    if reference.extractor not in (None, spec.name):
        raise InputError(
            f"{name} was made with {reference.extractor}, the samples are measured with {spec.name}; "
            "choose the same --extractor, or another reference"
        )
    for layer, gaussian in ((spec.features_layer, reference.pool), (spec.spatial_layer, reference.spatial)):
        if gaussian is not None and gaussian.dimensions != spec.dimensions[layer]:
            raise InputError(
                f"{name} was made with another extractor than {spec.name}: it has {gaussian.dimensions} features "
                f"where that has {spec.dimensions[layer]} ({layer}); choose the same --extractor, or another reference"
            )
    if "sFID" in wanted and reference.spatial is None:
        raise InputError(f"{name} has no mu_s and sigma_s, which sFID needs; leave it out of --metrics")
    if points := wanted & _POINTWISE:
        kept = reference.rows if reference.rows is not None else reference.images
        if kept is None:
            raise InputError(
                f"{name} has neither features nor images, which {', '.join(sorted(points))} need; "
                "leave them out of --metrics"
            )
        _check_count(name, len(kept), points)


def _check_weights(reference: Reference, weights: Weights) -> None:
    recorded = reference.record.get("weights_sha256", weights.sha256)
    if recorded != weights.sha256:
        raise InputError(
            f"reference {reference.name} was made with weights of SHA-256 {recorded}, {weights.path} has "
            f"{weights.sha256}; use the same weights, or build the reference again"
        )
