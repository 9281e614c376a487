from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality.metrics.arrays import BLOCK_ROWS, Array
from bench.quality.metrics.moments import Moments, Statistics, of_features
from dydit.errors import InputError


def rows(n: int, d: int, seed: int = 0, offset: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + offset


def accumulated(features: Array, cuts: list[int]) -> Moments:
    """The rows in batches that end at the cuts; equal cuts give empty batches."""
    moments = Moments(features.shape[1])
    for batch in np.split(features, sorted(cuts)):
        moments.update(batch)
    return moments


def assert_statistics(actual: Statistics, features: Array, rtol: float = 1e-12) -> None:
    mean, covariance = features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))
    assert actual.count == len(features)
    np.testing.assert_allclose(actual.mean, mean, rtol=rtol, atol=rtol * np.sqrt(np.trace(covariance)))
    np.testing.assert_allclose(actual.covariance, covariance, rtol=0, atol=rtol * np.abs(covariance).max())


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 300),
    d=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 300), max_size=8),
    seed=st.integers(0, 2**16),
    offset=st.sampled_from([0.0, 3.0, -1e3]),
)
def test_any_split_into_batches_gives_the_statistics_of_all_rows(
    n: int, d: int, cuts: list[int], seed: int, offset: float
) -> None:
    features = rows(n, d, seed, offset)
    assert_statistics(accumulated(features, cuts).statistics(), features)


@settings(deadline=None, max_examples=60)
@given(
    cuts=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 2**16),
    offset=st.sampled_from([0.0, 3.0, -1e3]),
)
def test_any_order_of_merging_gives_the_statistics_of_all_rows(
    cuts: list[int], order: object, seed: int, offset: float
) -> None:
    features = rows(200, 5, seed, offset)
    streams = [accumulated(part, []) for part in np.split(features, sorted(cuts))]
    while len(streams) > 1:
        order.shuffle(streams)  # type: ignore[attr-defined]
        streams[0].merge(streams.pop())
    assert_statistics(streams[0].statistics(), features)


def test_more_rows_than_a_block_in_one_batch() -> None:
    features = rows(3 * BLOCK_ROWS + 5, 3)
    assert_statistics(of_features(features), features)
    assert_statistics(of_features(features.astype(np.float32)), features, rtol=1e-6)


def test_merging_leaves_the_other_stream_as_it_is_and_both_can_go_on() -> None:
    features = rows(90, 4)
    first, second = accumulated(features[:30], []), accumulated(features[30:60], [])
    first.merge(second)
    assert_statistics(second.statistics(), features[30:60])
    second.update(features[60:])
    assert_statistics(second.statistics(), features[30:])
    assert_statistics(first.statistics(), features[:60])
    empty = Moments(4)
    empty.merge(first)
    first.update(features[60:])
    assert_statistics(empty.statistics(), features[:60])
    assert_statistics(first.statistics(), features)


def test_statistics_of_shards_merge_like_their_streams() -> None:
    features = rows(150, 6, offset=50.0)
    whole = Moments.of(of_features(features[:40]))
    whole.merge(Moments.of(of_features(features[40:])))
    assert_statistics(whole.statistics(), features)
    with pytest.raises(InputError, match="number of images is not known"):
        Moments.of(Statistics(0, np.zeros(2), np.eye(2)))


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    spread = np.round(rows(2000, 6), 6) * 2.0**-4
    features = spread + 2.0**20  # about 1e6
    exact = features - 2.0**20  # what float64 kept of the spread, exactly
    actual = accumulated(features, [1, 7, 700, 1100]).statistics()
    np.testing.assert_allclose(actual.covariance, np.cov(exact, rowvar=False), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(actual.mean, 2.0**20 + exact.mean(axis=0), rtol=1e-15)
    other = accumulated(features[1000:], [])
    first = accumulated(features[:1000], [])
    first.merge(other)
    np.testing.assert_allclose(first.statistics().covariance, actual.covariance, rtol=1e-12, atol=1e-13)


def test_torch_tensors_and_half_precision_accumulate_in_float64() -> None:
    features = np.full((4096, 1), 0.1, dtype=np.float16)
    features[::2] += np.float16(100.0)
    moments = Moments(1)
    for batch in torch.from_numpy(features).split(100):
        moments.update(batch)  # type: ignore[arg-type]
    assert_statistics(moments.statistics(), features.astype(np.float64))


def peak(batches: Iterator[Array], dimensions: int) -> int:
    """Bytes at the peak while the batches pass, beyond what was there before."""
    tracemalloc.start()
    try:
        moments = Moments(dimensions)
        for batch in batches:
            moments.update(batch)
        moments.statistics()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_50_000_rows_need_no_more_memory_than_1_000() -> None:
    def batches(count: int) -> Iterator[Array]:
        for seed in range(count // 100):
            yield np.random.default_rng(seed).normal(size=(100, 32))

    peak(batches(1000), 32)  # what the first use of a library keeps
    assert peak(batches(50_000), 32) <= peak(batches(1000), 32) + 4096


def test_unusable_rows_are_refused_and_nothing_is_added() -> None:
    good = rows(2 * BLOCK_ROWS, 3)
    moments = accumulated(good, [])
    bad = good.copy()
    bad[-1, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        moments.update(bad)
    with pytest.raises(InputError, match="NaN or infinite"):
        moments.update([[1.0, np.inf, 0.0]])
    with pytest.raises(InputError, match=r"shape \(5, 2\); expected \(n, 3\)"):
        moments.update(good[:5, :2])
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        moments.update(good[0])
    with pytest.raises(InputError, match="3 and 2 dimensions"):
        moments.merge(Moments(2))
    assert_statistics(moments.statistics(), good)


def test_too_few_rows_are_refused() -> None:
    for n in (0, 1):
        with pytest.raises(InputError, match=f"{n} images; a covariance needs at least 2"):
            of_features(np.zeros((n, 3)))
    with pytest.raises(InputError, match=r"expected \(N, D\)"):
        of_features(np.zeros(3))
    with pytest.raises(InputError, match="0 dimensions"):
        Moments(0)


@pytest.mark.parametrize(
    ("count", "mean", "covariance", "message"),
    [
        (5, np.zeros(3), np.eye(2), "one dimension D must serve both"),
        (5, np.zeros((1, 3)), np.eye(3), "mean: shape"),
        (5, np.zeros(0), np.zeros((0, 0)), "one dimension D"),
        (1, np.zeros(3), np.eye(3), "of 1 images"),
        (-4, np.zeros(3), np.eye(3), "of -4 images"),
        (5, np.array([0.0, np.nan]), np.eye(2), "mean: NaN"),
        (5, np.zeros(2), np.full((2, 2), np.inf), "covariance: NaN or infinite"),
        (5, np.zeros(2), np.array([[1.0, 0.5], [0.4, 1.0]]), "not symmetric"),
        (5, np.zeros(2), np.diag([1.0, -0.1]), "negative variance"),
        (5, np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), "not positive semi-definite, it has the eigenvalue -1"),
    ],
)
def test_statistics_that_cannot_be_are_refused(count: int, mean: Array, covariance: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Statistics(count, mean, covariance)


def test_statistics_of_an_unknown_number_of_rows_are_float64() -> None:
    known = Statistics(0, np.zeros(2, dtype=np.float32), np.eye(2, dtype=np.float32))  # type: ignore[arg-type]
    assert known.mean.dtype == known.covariance.dtype == np.float64
    assert known.dimensions == 2


def test_a_covariance_may_be_singular_and_rounded() -> None:
    few = rows(20, 64)
    exact = np.cov(few, rowvar=False)
    for covariance in (exact, exact.astype(np.float32), exact - 1e-8 * np.eye(64), np.zeros((64, 64))):
        Statistics(20, np.zeros(64), covariance)
    with pytest.raises(InputError, match="eigenvalue"):
        Statistics(20, np.zeros(64), exact - 1e-4 * np.trace(exact) * np.diag([0.0, *[1.0] * 63]))


def test_features_with_one_value_are_counted_whatever_the_rounding() -> None:
    features = rows(50, 6)
    features[:, 2], features[:, 4] = 0.0, 7.0 * (1 + 1e-7 * np.sign(features[:, 4]))
    assert of_features(features).constant == 2
    assert of_features(np.tile(features[:1], (9, 1))).constant == 6
