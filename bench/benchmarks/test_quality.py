"""Timed: statistics of features, FID from them, precision and recall, KID.

Sizes are those of InceptionV3's pool features; where nothing is timed (`--benchmark-disable`) they shrink.
`--large` adds precision and recall at D = 2048, which takes minutes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from bench.quality.metrics.arrays import Array
from bench.quality.metrics.frechet import FidReference, FidRows, fid_from_statistics
from bench.quality.metrics.kid import kid
from bench.quality.metrics.moments import Moments, Statistics, of_features
from bench.quality.metrics.precision_recall import precision_recall

POOL = 2048


def features(n: int, d: int, seed: int) -> Array:
    """Rows (n, d) with variances that fall like those of pool features, over six orders of magnitude."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.geomspace(1.0, 1e-3, d) + 0.1 * seed


@functools.cache
def gaussian(d: int, seed: int) -> Statistics:
    """Mean and covariance (d, d) of full rank, with every pair of dimensions correlated."""
    return of_features(features(2 * d, d, seed) @ np.linalg.qr(features(d, d, 7))[0])


@pytest.mark.parametrize("batch", [64, 1024])
def test_statistics(benchmark: Any, batch: int) -> None:
    """Moments of float32 features in batches."""
    d = 256 if benchmark.disabled else POOL
    benchmark.group = "statistics, D = 2048"
    rows = features(4096, d, 0).astype(np.float32)

    def accumulate() -> Moments:
        moments = Moments(d)
        for start in range(0, len(rows), batch):
            moments.update(rows[start : start + batch])
        return moments

    assert benchmark.pedantic(accumulate, rounds=5, warmup_rounds=1).count == len(rows)
    if not benchmark.disabled:
        benchmark.extra_info.update(batch=batch, rows_per_s=len(rows) / benchmark.stats.stats.median)


def test_fid_from_statistics(benchmark: Any) -> None:
    """Both sides given: the reference is factorised each time."""
    benchmark.group = "FID from statistics, D = 2048"
    first, second = (gaussian(128 if benchmark.disabled else POOL, seed) for seed in (0, 1))
    arguments = (first.mean, first.covariance, second.mean, second.covariance)
    value = benchmark.pedantic(fid_from_statistics, arguments, rounds=5, warmup_rounds=1)
    benchmark.extra_info["fid"] = value


def test_fid_from_statistics_by_torch_fidelity(benchmark: Any) -> None:
    from torch_fidelity import metric_fid

    benchmark.group = "FID from statistics, D = 2048"
    first, second = (gaussian(128 if benchmark.disabled else POOL, seed) for seed in (0, 1))
    arguments = [{"mu": side.mean, "sigma": side.covariance} for side in (first, second)]
    theirs = benchmark.pedantic(metric_fid.fid_statistics_to_metric, (*arguments, False), rounds=3)
    value = theirs[metric_fid.KEY_METRIC_FID]
    benchmark.extra_info["fid"] = value
    np.testing.assert_allclose(FidReference(first).distance(second), value, rtol=1e-6)


def test_fid_to_a_factorised_reference(benchmark: Any) -> None:
    benchmark.group = "FID from statistics, D = 2048"
    first, second = (gaussian(128 if benchmark.disabled else POOL, seed) for seed in (0, 1))
    reference = FidReference(first)
    assert benchmark.pedantic(reference.distance, (second,), rounds=5, warmup_rounds=1) > 0.0


def test_fid_resample(benchmark: Any) -> None:
    """One of the resamples of `bootstrap_fid` on 10,000 rows."""
    n, d = (300, 64) if benchmark.disabled else (10_000, POOL)
    benchmark.group = "FID of one resample of 10,000 rows, D = 2048"
    rows = FidRows(FidReference(gaussian(d, 0)), features(n, d, 1))
    counts = np.bincount(np.random.default_rng(0).integers(n, size=n), minlength=n)
    assert benchmark.pedantic(rows.distance, (counts,), rounds=3, warmup_rounds=1) > 0.0


@pytest.mark.parametrize("d", [64, pytest.param(POOL, marks=pytest.mark.large)])
def test_precision_recall(benchmark: Any, d: int) -> None:
    n = 1000 if benchmark.disabled else 10_000
    benchmark.group = f"precision and recall, 10,000 x 10,000, D = {d}"
    rng = np.random.default_rng(0)
    ref, gen = rng.normal(size=(2, n, d))
    rounds = 3 if d == 64 else 1
    precision, recall = benchmark.pedantic(precision_recall, (ref, gen), rounds=rounds)
    assert 0.0 < precision <= 1.0 and 0.0 < recall <= 1.0
    benchmark.extra_info.update(n_samples=n, n_reference=n)


def test_kid(benchmark: Any) -> None:
    """100 subsets of 1,000 at D = 64, by torch-fidelity."""
    subsets, size = (5, 100) if benchmark.disabled else (100, 1000)
    benchmark.group = "KID, 100 subsets of 1,000, D = 64"
    gen, ref = np.random.default_rng(0).normal(size=(2, 2 * size, 64))
    mean, _ = benchmark.pedantic(kid, (gen, ref, subsets, size), rounds=3)
    assert abs(mean) < 0.1
