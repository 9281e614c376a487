"""Distances as the ADM evaluator rounds them, and which features count as equal."""

from __future__ import annotations

import numpy as np
import pytest

from bench.quality.metrics import arrays, distances
from bench.quality.metrics.arrays import Array
from bench.quality.metrics.distances import ADM, EXACT, count_shared, prepare_points
from bench.quality.metrics.precision_recall import precision_recall
from dydit.errors import InputError


def features(n: int, d: int, seed: int, length: float = 20.0) -> Array:
    """Positive features of about this length, as a network with a ReLU at its end makes them, in single precision."""
    rows = np.abs(np.random.default_rng(seed).normal(1.0, 0.4, (n, d)))
    return (rows * length / np.sqrt(1.16 * d)).astype(np.float32)


def all_pairs(ref: Array, gen: Array, kind: str) -> Array:
    """Squared distances (M, N), every block put together."""
    one, other = prepare_points(ref, gen, kind)
    return np.concatenate([squared for _, squared in one.blocks(other, "")])


def rounded(u: Array, v: Array) -> np.ndarray:
    """|u|^2 - 2 u.v + |v|^2 of two rows, rounded to half precision after every step."""
    u, v = u.astype(np.float16), v.astype(np.float16)
    norms = [np.float16(np.sum((row * row).astype(np.float32))) for row in (u, v)]
    product = np.float16(u.astype(np.float32) @ v.astype(np.float32))
    return np.maximum(norms[0] - np.float16(2) * product + norms[1], np.float16(0))


def test_every_step_is_rounded_to_half_precision() -> None:
    ref, gen = features(7, 32, 0), features(5, 32, 1)
    expected = np.array([[rounded(u, v) for v in gen] for u in ref]).astype(np.float32)
    assert np.array_equal(all_pairs(ref, gen, ADM), expected)
    exact = np.sum((ref[:, None].astype(float) - gen) ** 2, axis=2)
    np.testing.assert_allclose(all_pairs(ref, gen, EXACT), exact, rtol=1e-12)
    assert not np.allclose(expected, exact, rtol=1e-3) and np.allclose(expected, exact, atol=1.0)


def test_a_block_with_a_distance_beyond_half_precision_is_compared_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "ADM_BLOCK", 4)
    monkeypatch.setattr(arrays, "BLOCK_ROWS", 3)
    ref, gen = features(10, 16, 0), features(6, 16, 1)
    gen[5] *= 16.0  # 20 * 16 squared is more than 65504; columns 4 and 5 are the second block
    found = all_pairs(ref, gen, ADM)
    half = np.array([[rounded(u, v) for v in gen[:4]] for u in ref])
    assert np.array_equal(found[:, :4], half)
    exact = np.sum((ref[:, None].astype(float) - gen) ** 2, axis=2)
    np.testing.assert_allclose(found[:, 4:], exact[:, 4:], rtol=1e-4, atol=1e-3)
    assert np.isfinite(found).all() and not np.allclose(found[:, :4], exact[:, :4], rtol=1e-3)


@pytest.mark.parametrize("length", [120.0, 127.0, 130.0, 255.0, 257.0, 1e6])
def test_lengths_around_the_largest_half_are_finite(length: float) -> None:
    ref, gen = features(6, 16, 0, length), features(5, 16, 1, length)
    exact = np.sum((ref[:, None].astype(float) - gen) ** 2, axis=2)
    found = all_pairs(ref, gen, ADM)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, exact, atol=length**2 / 200)


def test_rounding_raises_precision_and_recall_by_thousandths() -> None:
    """At length 20 and a spread of 8, as pool features have them."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(40, 512)) * np.geomspace(1.0, 0.1, 40)[:, None] * 0.12

    def drawn(n: int, width: float) -> Array:
        return np.maximum(rng.normal(size=(n, 40)) * width @ directions + 0.8, 0.0).astype(np.float32)

    ref, gen = drawn(1500, 1.0), drawn(1500, 0.93)
    exact, adm = (np.array(precision_recall(ref, gen, distances=kind)) for kind in (EXACT, ADM))
    assert (adm - exact > 0.0).all() and (adm - exact < 0.02).all() and (exact > 0.3).all() and (exact < 0.97).all()


@pytest.mark.parametrize("kind", [EXACT, ADM])
def test_equal_sets_cover_each_other(kind: str) -> None:
    rows = features(60, 16, 0)
    constant = np.repeat(rows[:1], 60, axis=0)
    order = np.random.default_rng(1).permutation(60)
    for ref, gen in ((rows, rows[order]), (constant, constant[:50]), (rows.astype(float), rows.astype(float))):
        assert precision_recall(ref, gen, distances=kind) == (1.0, 1.0)


def test_rounding_between_batches_does_not_part_equal_images() -> None:
    """Collapsed sets have balls of radius 0: the last digits of a network must not decide."""
    one = features(1, 256, 0).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(70, 256)) * 1e-7
    collapsed = (np.repeat(one, 70, axis=0) * (1.0 + noise)).astype(np.float32)
    assert len(np.unique(collapsed, axis=0)) > 1
    assert precision_recall(collapsed[:40], collapsed[40:]) == (1.0, 1.0)


def test_near_duplicates_are_different_points() -> None:
    rows = features(60, 16, 0)
    near = rows * np.float32(1.0 + 1e-4)
    assert (all_pairs(rows, near, EXACT).diagonal() > 0.0).all()
    assert precision_recall(rows, near) == (1.0, 1.0)  # within the balls of what they are near to
    constant = np.repeat(rows[:1], 60, axis=0)
    assert precision_recall(constant, constant * np.float32(1.0 + 1e-4)) == (0.0, 0.0)  # these have radius 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shared_features_are_counted_once_per_row(dtype: type) -> None:
    rows = features(200, 24, 0).astype(dtype)
    order = np.random.default_rng(1).permutation(200)
    assert count_shared(rows[:120], rows[50:][order[order < 150]]) == 70
    assert count_shared(rows[:50], rows[50:]) == 0
    assert count_shared(np.repeat(rows[:1], 30, axis=0), rows) == 30
    assert count_shared(rows, np.repeat(rows[:1], 30, axis=0)) == 1
    assert count_shared(rows * dtype(1.0 + 2 * np.finfo(dtype).eps), rows) == 200
    assert count_shared(rows * dtype(1.0 + 1e-4), rows) == 0


def test_equal_sums_are_not_equal_features() -> None:
    first = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [6.0, 0.0, 0.0]])
    assert count_shared(first, np.array([[2.0, 2.0, 2.0], [0.0, 6.0, 0.0], [3.0, 2.0, 1.0]])) == 1


def test_unknown_distances_are_refused() -> None:
    with pytest.raises(InputError, match="distances 'float16'; choose one of float64, adm-float16"):
        precision_recall(features(9, 4, 0), features(9, 4, 1), distances="float16")
