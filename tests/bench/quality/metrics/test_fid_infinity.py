"""FID-infinity on distributions whose distance is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from bench.quality.metrics.arrays import Array
from bench.quality.metrics.fid_infinity import fid_infinity
from bench.quality.metrics.frechet import FidReference
from bench.quality.metrics.moments import Statistics, of_features

Z95 = 1.959964
WIDTHS = np.linspace(0.5, 2.0, 12)
RARE = 0.25


def clusters(n: int, seed: int) -> Array:
    """Two Gaussian clusters in 12 dimensions, one of them rarer."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 12)) * WIDTHS + (rng.random(n) < RARE)[:, None]


def reference(scale: float) -> FidReference:
    """Mean and covariance of the distribution behind `clusters`, exactly; as if it were `scale` times as wide."""
    covariance = np.diag(WIDTHS**2) + RARE * (1 - RARE)
    return FidReference(Statistics(0, np.full(12, RARE * scale), covariance * scale**2))


def exact_distance(scale: float) -> float:
    """Between the distribution behind `clusters` and `reference(scale)`: one covariance is a multiple of the other."""
    trace = np.sum(WIDTHS**2) + 12 * RARE * (1 - RARE)
    return float((12 * RARE**2 + trace) * (scale - 1.0) ** 2)


@pytest.mark.parametrize("n", [60, 200, 1000])
@pytest.mark.parametrize("scale", [1.0, 1.1])  # a perfect generator, and one that is too narrow
def test_fid_infinity_is_nearer_to_the_exact_distance_than_the_fid(n: int, scale: float) -> None:
    truth, side = exact_distance(scale), reference(scale)
    np.testing.assert_allclose(side.distance(reference(1.0).statistics), truth, atol=1e-12)
    plain = np.array([side.distance(of_features(clusters(n, seed))) for seed in range(30)]) - truth
    fitted = np.array([fid_infinity(clusters(n, s), side, resamples=2).value for s in range(30)]) - truth
    assert plain.mean() > 0.0  # the bias of finite N
    assert abs(fitted.mean()) < 0.3 * plain.mean()
    if n <= 200:  # where the bias is larger than the noise, each run gains
        assert np.abs(fitted).mean() < 0.7 * np.abs(plain).mean()


def test_the_interval_of_fid_infinity_has_the_spread_of_repeated_generation() -> None:
    found = [fid_infinity(clusters(300, seed), reference(1.1), resamples=60) for seed in range(4)]
    repeated = np.std([fid_infinity(clusters(300, s), reference(1.1), resamples=2).value for s in range(40)])
    assert 0.6 < np.mean([one.high - one.low for one in found]) / (2 * Z95 * repeated) < 1.5
    assert all(one.low < one.value < one.high for one in found)


def test_fid_infinity_is_the_line_through_its_points() -> None:
    fitted = fid_infinity(clusters(400, 0), reference(1.1), points=6, resamples=2, seed=1)
    assert fitted == fid_infinity(clusters(400, 0), reference(1.1), points=6, resamples=2, seed=1)
    assert fitted.sizes[0] == 400 and fitted.sizes[-1] == 40 and len(fitted.sizes) == 6
    steps = np.diff(1.0 / np.array(fitted.sizes))
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.1)
    np.testing.assert_allclose(fitted.fids[0], reference(1.1).distance(of_features(clusters(400, 0))), rtol=1e-9)
    inverse = 1.0 / np.array(fitted.sizes)
    residuals = np.array(fitted.fids) - (fitted.value + fitted.slope * inverse)
    np.testing.assert_allclose([residuals.sum(), residuals @ inverse], 0.0, atol=1e-9)  # least squares
    assert fitted.slope > 0.0


def test_subsets_stay_well_above_the_dimensions_where_there_are_images_enough() -> None:
    assert min(fid_infinity(clusters(100, 0), reference(1.1), resamples=2).sizes) == 24  # 2 D, not 10
    assert min(fid_infinity(clusters(40, 0), reference(1.1), resamples=2).sizes) == 20  # half
