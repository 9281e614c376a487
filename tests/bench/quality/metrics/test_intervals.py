from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.quality.metrics.arrays import Array
from bench.quality.metrics.fid_infinity import fid_infinity
from bench.quality.metrics.frechet import FidReference, fid
from bench.quality.metrics.inception_score import inception_score
from bench.quality.metrics.intervals import (
    bootstrap_fid,
    bootstrap_fid_ratio,
    bootstrap_inception_score,
    bootstrap_kid,
    bootstrap_share,
    images_needed,
)
from bench.quality.metrics.kid import kid
from bench.quality.metrics.moments import of_features
from bench.quality.metrics.precision_recall import memberships, precision_recall
from bench.quality.metrics.resampling import Interval
from dydit.errors import InputError

Z95 = 1.959964


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.diag(np.linspace(0.2, 3.0, d)) + shift


def probs(n: int, classes: int, seed: int) -> Array:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), size=n)


REF = gaussian(2000, 8, 0)

INTERVALS: dict[str, tuple[Callable[[int, int], float], Callable[[int, int], Interval]]] = {
    "fid": (
        lambda n, seed: fid(gaussian(n, 8, seed, shift=0.5), REF),
        lambda n, seed: bootstrap_fid(gaussian(n, 8, seed, shift=0.5), REF),
    ),
    "inception score": (
        lambda n, seed: inception_score(probs(n, 6, seed), n // 4)[0],
        lambda n, seed: bootstrap_inception_score(probs(n, 6, seed), n // 4),
    ),
    "kid": (
        lambda n, seed: kid(gaussian(n, 8, seed, shift=0.5), REF[:n], 1, n)[0],
        lambda n, seed: bootstrap_kid(gaussian(n, 8, seed, shift=0.5), REF[:n], subsets=1, subset_size=n),
    ),
    "precision": (
        lambda n, seed: precision_recall(REF[:400], gaussian(n, 8, seed, shift=0.5))[0],
        lambda n, seed: bootstrap_share(memberships(REF[:400], gaussian(n, 8, seed, shift=0.5)).generated),
    ),
}


@pytest.mark.parametrize("metric", INTERVALS)
def test_an_interval_has_the_spread_of_repeated_generation(metric: str) -> None:
    value, interval = INTERVALS[metric]
    repeated = np.std([value(200, seed) for seed in range(1, 61)])
    found = [interval(200, seed) for seed in range(1, 6)]
    assert 0.6 < np.mean([high - low for low, high in found]) / (2 * Z95 * repeated) < 1.5
    assert 0.6 < np.mean([one.std for one in found]) / repeated < 1.5
    for seed, (low, high) in zip(range(1, 6), found, strict=True):
        assert low < value(200, seed) < high


@pytest.mark.parametrize("metric", INTERVALS)
def test_an_interval_narrows_with_the_root_of_n(metric: str) -> None:
    _, interval = INTERVALS[metric]
    assert 2.0 < interval(100, 1).std / interval(1600, 1).std < 8.0  # about 4


def test_an_interval_repeats_by_seed_and_widens_with_the_level() -> None:
    gen, p = gaussian(60, 8, 1), probs(60, 5, 1)
    inside = memberships(REF[:100], gen).generated
    calls: list[Callable[..., Interval]] = [
        lambda **kw: bootstrap_fid(gen, REF, **kw),
        lambda **kw: bootstrap_inception_score(p, 20, **kw),
        lambda **kw: bootstrap_kid(gen, REF[:60], subsets=1, subset_size=60, **kw),
        lambda **kw: bootstrap_share(inside, **kw),
    ]
    for call in calls:
        assert call(seed=3) == call(seed=3)
        assert call(seed=3).std != call(seed=4).std
        narrow, wide = call(level=0.5), call(level=0.99)
        assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_factorised_reference_gives_the_interval_of_its_features() -> None:
    gen, reference = gaussian(80, 8, 1, shift=0.5), FidReference(of_features(REF))
    assert bootstrap_fid(gen, reference, resamples=5) == bootstrap_fid(gen, REF, resamples=5)
    assert fid_infinity(gen, reference, resamples=2) == fid_infinity(gen, REF, resamples=2)


def test_intervals_stay_where_the_metric_can_be() -> None:
    low, high = bootstrap_fid(REF[:50], REF[:50])
    assert low == 0.0 < high
    assert bootstrap_inception_score(np.full((20, 4), 0.25), 5) == pytest.approx((1.0, 1.0))
    assert bootstrap_share(np.ones(20, dtype=np.bool_)) == (1.0, 1.0)
    low, high = bootstrap_share(np.arange(20) < 1)
    assert low == 0.0 < 0.05 < high < 0.3
    low, high = bootstrap_kid(REF[:50], REF[50:100], subsets=1, subset_size=50)
    assert low < 0.0 < high  # unbiased: alike sets lie on both sides of 0


def test_the_ratio_of_two_fids_has_an_interval_without_the_luck_both_share() -> None:
    base = gaussian(300, 8, 1, shift=0.5)
    value, low, high = bootstrap_fid_ratio(base + 0.05, base, REF)
    np.testing.assert_allclose(value, fid(base + 0.05, REF) / fid(base, REF), rtol=1e-9)
    assert low < value < high
    _, loose_low, loose_high = bootstrap_fid_ratio(gaussian(300, 8, 2, shift=0.55), base, REF)
    assert high - low < 0.5 * (loose_high - loose_low)
    with pytest.raises(InputError, match="300 and 299 images"):
        bootstrap_fid_ratio(base, base[1:], REF)
    with pytest.raises(InputError, match="denominator's FID is 0"):
        bootstrap_fid_ratio(base, REF[:1].repeat(300, axis=0), REF[:1].repeat(9, axis=0))
    with pytest.raises(InputError, match="1 resamples"):
        bootstrap_fid_ratio(base, base, REF, resamples=1)


def test_an_interval_can_be_copied_field_by_field() -> None:
    @dataclasses.dataclass
    class Row:
        interval: tuple[float, float]

    interval = bootstrap_share(np.arange(20) < 9)
    assert dataclasses.asdict(Row(interval))["interval"] == interval


def test_images_needed_tells_a_difference_apart() -> None:
    seen = Z95 * 2**0.5 * 0.2  # the smallest difference that 1,000 images tell apart at std 0.2
    assert images_needed(0.2, 1000, difference=seen * (1 + 1e-6)) == 1000
    assert images_needed(0.2, 1000, difference=seen / 10 * (1 + 1e-6)) == 100_000
    assert images_needed(0.2, 1000) == images_needed(0.2, 1000, difference=0.1)
    assert images_needed(0.2, 1000, level=0.99) > images_needed(0.2, 1000)
    assert images_needed(0.0, 10) == 2
    wanted = images_needed(0.5, 400, difference=0.3)
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.5 * (400 / wanted) ** 0.5, size=(2, 100_000))
    assert np.mean(np.abs(noise[0] - noise[1]) > 0.3) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("bad", [{"std": -1.0}, {"std": np.nan}, {"count": 0}, {"difference": 0.0}, {"level": 1.0}])
def test_unusable_numbers_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="images needed"):
        images_needed(**{"std": 1.0, "count": 100} | bad)


def test_unusable_features_are_refused() -> None:
    good, bad = gaussian(50, 4, 0), gaussian(50, 4, 1)
    bad[2, 1] = np.nan
    calls: list[Callable[[Any, Any], object]] = [
        bootstrap_fid,
        fid_infinity,
        lambda gen, ref: bootstrap_fid_ratio(gen, good, ref),
        lambda gen, ref: bootstrap_kid(gen, ref, subset_size=2),
    ]
    for call in calls:
        with pytest.raises(InputError, match="NaN or infinite"):
            call(bad, good)
        with pytest.raises(InputError, match="NaN or infinite"):
            call(good, bad)
        with pytest.raises(InputError, match="3 dimensions"):
            call(good, good[:, :3])
        with pytest.raises(InputError, match="expected 2 dimension"):
            call(good[0], good)
        with pytest.raises(InputError, match="at least"):
            call(good[:1], good)
    reference = FidReference(of_features(good))
    with pytest.raises(InputError, match="FID: features of 3 and 4 dimensions"):
        bootstrap_fid(good[:, :3], reference)
    with pytest.raises(InputError, match="1 images"):
        bootstrap_fid(good[:1], reference)
    with pytest.raises(InputError, match="30 images for 10 points"):
        fid_infinity(good[:30], reference)
    with pytest.raises(InputError, match="for 1 points"):
        fid_infinity(good, reference, points=1)


def test_unusable_resampling_is_refused() -> None:
    good, p = gaussian(50, 4, 0), probs(20, 3, 0)
    calls: list[Callable[..., object]] = [
        lambda **kw: bootstrap_fid(good, good, **kw),
        lambda **kw: bootstrap_inception_score(p, 5, **kw),
        lambda **kw: bootstrap_kid(good, good, subset_size=5, **kw),
        lambda **kw: bootstrap_share(np.ones(4, dtype=np.bool_), **kw),
        lambda **kw: fid_infinity(good, good, **kw),
    ]
    for call in calls:
        with pytest.raises(InputError, match="1 resamples"):
            call(resamples=1)
        with pytest.raises(InputError, match=r"level 1\.0"):
            call(level=1.0)


def test_unusable_memberships_and_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match="float64 of shape"):
        bootstrap_share(np.ones(4))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shape \(0,\)"):
        bootstrap_share(np.ones(0, dtype=np.bool_))
    with pytest.raises(InputError, match="apply softmax"):
        bootstrap_inception_score(np.ones((4, 3)), 2)
    with pytest.raises(InputError, match="splits of 0"):
        bootstrap_inception_score(np.eye(2), 0)
