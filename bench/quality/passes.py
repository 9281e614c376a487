"""The passes over the images: one over the samples, which every metric shares, and at most one over the reference."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.data.image_set import Images
from bench.quality.features import Weights, extraction
from bench.quality.metrics.distances import all_equal
from bench.quality.metrics.moments import Moments, Statistics
from bench.quality.references.reference import Reference
from bench.quality.settings import Settings
from bench.quality.values import Rows, Scores, ScoreStream, probabilities


@dataclass
class SampleFeatures:
    """What the metrics need of the samples, by layer where there are several.

    Attributes:
        count: number of samples.
        alike: whether all samples have the same features, up to rounding.
        statistics: for FID and sFID.
        rows: features of every sample, in order, for intervals and the metrics that compare images.
        scores: for the Inception Score, where it is measured.
    """

    count: int
    alike: bool = True
    statistics: dict[str, Statistics] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    scores: Scores | None = None


def read_samples(settings: Settings, weights: Weights, samples: Images) -> SampleFeatures:
    """Extract the layers that the metrics need, in one pass, and keep no more rows than they need."""
    spec = settings.spec
    by_metric = {"FID": spec.features_layer, "sFID": spec.spatial_layer, "IS": spec.logits_layer}
    layers = {layer for metric, layer in by_metric.items() if metric in settings.metrics and layer is not None}
    kept = layers.copy() if settings.resampling.resamples else set()
    if settings.imagewise:
        kept.add(spec.features_layer)
    moments = {layer: Moments(spec.dimensions[layer]) for layer in layers - {spec.logits_layer}}
    scores = None
    if "IS" in settings.metrics and spec.logits_layer is not None:
        scores = ScoreStream(len(samples), spec.dimensions[spec.logits_layer], settings.resampling.seed)
    features = SampleFeatures(len(samples))
    first: dict[str, Rows] = {}
    start = 0
    for batch in extraction.stream_features(
        samples, spec.name, sorted(layers | kept), weights, settings.batch_size, f"features of {samples.name}"
    ):
        for layer, rows in batch.items():
            features.alike = features.alike and all_equal(rows, first.setdefault(layer, rows[0].copy()))
            if layer in moments:
                moments[layer].update(rows)
            elif scores is not None and layer == spec.logits_layer:
                scores.update(probabilities(rows))
            if layer in kept:
                if not start:
                    features.rows[layer] = np.empty((len(samples), rows.shape[1]), rows.dtype)
                features.rows[layer][start : start + len(rows)] = rows
        start += len(rows)
    features.statistics = {layer: moment.statistics() for layer, moment in moments.items()}
    if scores is not None:
        features.scores = scores.scores()
    return features


def read_reference_rows(settings: Settings, weights: Weights, reference: Reference) -> Rows | None:
    """Features of the reference for the metrics that compare images; extracted here where its file has none."""
    if not settings.imagewise or reference.rows is not None:
        return reference.rows
    assert reference.images is not None  # compatibility.check_pair
    layer = settings.spec.features_layer
    label = f"reference {reference.name}"
    stream = extraction.stream_features(
        reference.images, settings.spec.name, [layer], weights, settings.batch_size, label
    )
    return np.concatenate([batch[layer] for batch in stream])
