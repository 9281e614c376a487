"""The settings of a measurement of quality, checked before any work: metrics, extractor, batch size, resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.quality.features import extractors
from bench.quality.features.extractors import ExtractorSpec
from bench.quality.metrics.distances import DISTANCES
from dydit import InputError

METRICS = ("FID", "sFID", "IS", "precision", "recall", "KID")
IMAGEWISE = frozenset({"precision", "recall", "KID"})
"""Metrics that compare images with images, and need the features of each; the others need statistics."""
RESAMPLES = 100
FEW_DIMENSIONS = 128
"""Up to so many features intervals are measured by default; at 2048 a resample of the FID costs about a second."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn: 0 or at least 2 resamples, and the seed of these and of subsets."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Settings:
    """The checked settings of one measurement; `distances`, of precision and recall, is one of `DISTANCES`."""

    spec: ExtractorSpec
    metrics: frozenset[str]
    batch_size: int
    resampling: Resampling
    distances: str

    @property
    def imagewise(self) -> frozenset[str]:
        """Those of the metrics that need the features of every image."""
        return self.metrics & IMAGEWISE


def measurable(spec: ExtractorSpec) -> tuple[str, ...]:
    """Those of `METRICS` that an extractor has a layer for."""
    return tuple(metric for metric in METRICS if not spec.lacks(metric))


def check_settings(
    extractor: str, metrics: Sequence[str] | None, batch_size: int, resamples: int | None, seed: int, distances: str
) -> Settings:
    """Settings from the arguments of `bench.quality.measure.measure_quality`.

    Raises:
        InputError: an unknown extractor, metric or kind of distances, no metric, one that the extractor has no layer
            for, or numbers that cannot be used.
    """
    spec = extractors.extractor(extractor)
    metrics = measurable(spec) if metrics is None else metrics
    if resamples is None:
        resamples = RESAMPLES if spec.dimensions[spec.features_layer] <= FEW_DIMENSIONS else 0
    if batch_size < 1 or resamples < 0 or resamples == 1:
        raise InputError(
            f"batch size {batch_size}, {resamples} resamples; at least 1 image a batch, and 0 or at least 2 resamples"
        )
    if not metrics or not set(metrics) <= set(METRICS):
        unknown = ", ".join(metric for metric in metrics if metric not in METRICS) or "none"
        raise InputError(f"metrics: {unknown} asked for; choose from {', '.join(METRICS)}")
    if lacking := [metric for metric in metrics if spec.lacks(metric)]:
        raise InputError(
            f"metrics: {spec.name} has no layer for {', '.join(lacking)}; choose from {', '.join(measurable(spec))}"
        )
    if distances not in DISTANCES:
        raise InputError(f"distances {distances!r}; choose one of {', '.join(DISTANCES)}")
    return Settings(spec, frozenset(metrics), batch_size, Resampling(resamples, seed), distances)
