from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from bench.quality.metrics import arrays
from bench.quality.metrics.arrays import Array
from bench.quality.metrics.distances import ADM
from bench.quality.metrics.precision_recall import memberships, precision_recall
from dydit.errors import InputError


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.diag(np.linspace(0.2, 3.0, d)) + shift


def brute_force(ref: Array, gen: Array, k: int) -> tuple[list[bool], list[bool]]:
    def inside(points: Array, balls: Array) -> list[bool]:
        radii = [sorted(np.linalg.norm(balls - m, axis=1))[k] for m in balls]
        return [bool((np.linalg.norm(balls - p, axis=1) <= radii).any()) for p in points]

    return inside(gen, ref), inside(ref, gen)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("rows", "pairs"), [(7, 2**24), (1024, 2**24), (1024, 300)])
def test_precision_and_recall_by_definition(k: int, rows: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BLOCK_ROWS", rows)
    monkeypatch.setattr(arrays, "BLOCK_PAIRS", pairs)
    ref, gen = gaussian(90, 5, 0), gaussian(70, 5, 1, shift=0.4)
    inside = brute_force(ref, gen, k)
    found = memberships(ref, gen, k)
    assert (found.generated.tolist(), found.reference.tolist()) == inside
    expected = (np.mean(inside[0]), np.mean(inside[1]))
    assert precision_recall(ref, gen, k) == expected
    assert 0.0 < expected[0] < 1.0 and 0.0 < expected[1] < 1.0 and expected[0] != expected[1]
    assert precision_recall(ref + 1e6, gen + 1e6, k) == expected  # a common offset changes nothing


def test_precision_and_recall_agree_with_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    ref, gen = gaussian(400, 12, 0), gaussian(300, 12, 1, shift=0.8)
    theirs = prc_features_to_metric(torch.from_numpy(gen), torch.from_numpy(ref), verbose=False)
    ours = precision_recall(ref, gen)
    np.testing.assert_allclose(ours, (theirs["precision"], theirs["recall"]), rtol=0, atol=1e-6)
    assert ours[0] < 0.9 and ours[0] != ours[1]


def test_precision_and_recall_on_made_up_clusters() -> None:
    cluster = gaussian(80, 6, 0)
    assert precision_recall(cluster, cluster) == (1.0, 1.0)
    assert precision_recall(cluster, cluster + 100.0) == (0.0, 0.0)
    two = np.concatenate([cluster, gaussian(80, 6, 1) + 100.0])
    assert precision_recall(two, cluster) == (1.0, 0.5)  # one of two modes: precise, half covered
    assert precision_recall(cluster, two) == (0.5, 1.0)


def test_a_collapsed_set_covers_only_its_own_image() -> None:
    ref = gaussian(80, 6, 0)
    collapsed = np.repeat(ref[3:4], 50, axis=0)  # balls of radius zero: equality must survive the rounding
    assert precision_recall(ref, collapsed) == (1.0, 1 / 80)


def test_unusable_features_are_refused() -> None:
    good, bad = gaussian(10, 4, 0), gaussian(10, 4, 1)
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        precision_recall(good, bad)
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        precision_recall(good, good[:, :3])
    with pytest.raises(InputError, match="3 images; it needs at least 4"):
        precision_recall(good, good[:3])
    with pytest.raises(InputError, match="k = 0"):
        memberships(good, good, k=0)


def test_memory_is_that_of_some_rows_of_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BLOCK_ROWS", 50)
    ref, gen = np.random.default_rng(0).normal(size=(2, 2000, 4))
    tracemalloc.start()
    try:
        memberships(ref, gen)
        assert tracemalloc.get_traced_memory()[1] < 2000 * 2000 * 8 / 4  # a quarter of the whole matrix
    finally:
        tracemalloc.stop()


def with_near_duplicates(apart: float, d: int = 24, seed: int = 0) -> Array:
    """Thirty places with ten points each, at this distance from one another."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(30, d))
    return np.repeat(places, 10, axis=0) + rng.normal(size=(300, d)) * apart


@pytest.mark.parametrize("dtypes", [*itertools.product([np.float64, np.float32, np.float16], repeat=2)])
@pytest.mark.parametrize(
    "rows",
    [
        gaussian(120, 24, 0),
        gaussian(120, 24, 0) + 1000.0,
        gaussian(120, 24, 0) * 1e-3,
        np.full((120, 24), 0.37),
        np.repeat(gaussian(12, 24, 0), 10, axis=0),
        *(with_near_duplicates(apart) for apart in (1e-2, 1e-4, 1e-6, 1e-8)),
    ],
    ids=["apart", "far from zero", "small", "one point", "repeated", "1e-2", "1e-4", "1e-6", "1e-8"],
)
def test_equal_sets_cover_each_other_in_any_order_and_precision(rows: Array, dtypes: tuple[type, type]) -> None:
    stored = rows.astype(np.float16)  # what every precision can hold
    ref, gen = (stored.astype(dtype) for dtype in dtypes)
    assert precision_recall(ref, gen) == precision_recall(ref, gen[::-1]) == (1.0, 1.0)
    if dtypes[0] == dtypes[1]:
        own = rows.astype(dtypes[0])
        assert precision_recall(own, own) == precision_recall(own, own[::-1]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("apart", "dtype"), [(1e-2, np.float32), (1e-4, np.float32), (1e-2, np.float64), (1e-5, np.float64)]
)
def test_near_duplicates_are_told_apart_where_their_precision_can(apart: float, dtype: type) -> None:
    """Against scikit-learn's neighbours: points that lie close together are neither one point nor far apart."""
    from sklearn.neighbors import NearestNeighbors

    points = with_near_duplicates(apart).astype(dtype).astype(np.float64)
    ref, gen = points[::2], points[1::2]

    def inside(some: Array, balls: Array) -> float:
        radii = NearestNeighbors(algorithm="brute").fit(balls).kneighbors(balls, 4)[0][:, 3]
        return float((np.linalg.norm(some[:, None] - balls[None], axis=2) <= radii).any(axis=1).mean())

    expected = inside(gen, ref), inside(ref, gen)
    assert precision_recall(ref.astype(dtype), gen.astype(dtype)) == pytest.approx(expected, abs=1e-12)
    assert 0.3 < expected[0] < 1.0


def test_a_near_copy_of_one_set_lies_in_it_and_a_far_one_does_not() -> None:
    rows = gaussian(100, 24, 0).astype(np.float32)
    copied = rows * np.float32(1 + 1e-5)  # as another format of pictures may leave them
    assert precision_recall(rows, copied) == (1.0, 1.0)
    # Balls of radius zero hold no near copy, and balls that reach to a neighbour hold the point that was copied.
    assert precision_recall(np.repeat(rows[:1], 100, axis=0), copied) == (0.0, 1.0)


def test_rounded_distances_do_not_tell_near_duplicates_apart() -> None:
    """The ADM evaluator's rounding puts a point outside of the ball around itself, which exact distances never do."""
    sets = [with_near_duplicates(1e-6, 64, seed).astype(np.float32) for seed in range(10)]
    assert [precision_recall(rows, rows) for rows in sets] == [(1.0, 1.0)] * 10
    assert 0.9 < min(precision_recall(rows, rows, distances=ADM)[0] for rows in sets) < 1.0


@pytest.mark.parametrize("others", [1, 1797, 50_000, 10**9])
def test_a_block_holds_so_many_pairs_at_most(others: int) -> None:
    parts = arrays.pair_slices(5000, others)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(5000))
    largest = max(part.stop - part.start for part in parts)
    assert largest <= arrays.BLOCK_ROWS and (largest == 1 or largest * others <= arrays.BLOCK_PAIRS)
