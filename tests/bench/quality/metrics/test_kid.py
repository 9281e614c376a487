from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench.quality.metrics import arrays
from bench.quality.metrics.arrays import Array
from bench.quality.metrics.kid import kid, resampled_mmd
from dydit.errors import InputError


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Array:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def unbiased_mmd(x: Array, y: Array) -> float:
    """Means of (u . v / D + 1)^3 over the pairs of different rows, term by term."""

    def mean(pairs: list[tuple[Array, Array]]) -> float:
        return float(np.mean([(u @ v / len(u) + 1.0) ** 3 for u, v in pairs]))

    within = mean(list(itertools.permutations(x, 2))) + mean(list(itertools.permutations(y, 2)))
    return within - 2.0 * mean(list(itertools.product(x, y)))


def test_kid_of_whole_sets_is_the_unbiased_mmd() -> None:
    gen, ref = features(12, 5, 0, shift=0.5), features(12, 5, 1)
    mean, std = kid(gen, ref, subsets=3, subset_size=12)  # each subset is the set, in another order
    np.testing.assert_allclose(mean, unbiased_mmd(gen, ref), rtol=1e-10)
    assert std < 1e-12


@pytest.mark.parametrize("counts", [(40, 50), (90, 300)])
def test_kid_is_torch_fidelitys(counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer pairs of rows than the subsets have together, each computed once in blocks, and with more."""
    import torch
    from torch_fidelity import metric_kid

    monkeypatch.setattr(arrays, "BLOCK_PAIRS", 700)
    gen, ref = features(counts[0], 6, 0, shift=0.5), features(counts[1], 6, 1)
    theirs = metric_kid.kid_features_to_metric(
        torch.from_numpy(gen), torch.from_numpy(ref), kid_subsets=12, kid_subset_size=20, rng_seed=3, verbose=False
    )
    expected = theirs[metric_kid.KEY_METRIC_KID_MEAN], theirs[metric_kid.KEY_METRIC_KID_STD]
    np.testing.assert_allclose(kid(gen, ref, 12, 20, seed=3), expected, rtol=1e-10)


def test_kid_over_subsets_estimates_that_of_the_sets_and_has_no_bias() -> None:
    gen, ref = features(60, 5, 0, shift=0.5), features(60, 5, 1)
    mean, std = kid(gen, ref, subsets=400, subset_size=20)
    assert abs(mean - unbiased_mmd(gen, ref)) < 4 * std / 400**0.5
    alike = [kid(features(60, 5, 2 * s), features(60, 5, 2 * s + 1), 20, 30)[0] for s in range(30)]
    assert min(alike) < 0.0 < max(alike)
    assert abs(np.mean(alike)) < 3 * np.std(alike) / 30**0.5


def test_kid_repeats_by_seed_and_leaves_the_global_generator_alone() -> None:
    gen, ref = features(40, 4, 0), features(50, 4, 1)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr,index]
    first = kid(gen, ref, 5, 10, seed=3)
    assert first == kid(gen, ref, 5, 10, seed=3) != kid(gen, ref, 5, 10, seed=4)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


@pytest.mark.parametrize("pairs", [40, 2**24])
def test_resampled_mmd_is_that_of_the_set_written_out(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BLOCK_PAIRS", pairs)
    gen, ref = features(15, 4, 0, shift=0.3), features(11, 4, 1)
    rng = np.random.default_rng(2)
    counts = np.stack([np.bincount(rng.integers(15, size=15), minlength=15) for _ in range(4)]).astype(np.float64)
    actual = resampled_mmd(gen, ref, counts)
    expected = np.array([unbiased_mmd(np.repeat(gen, row.astype(int), axis=0), ref) for row in counts])
    np.testing.assert_allclose(actual - actual[0], expected - expected[0], rtol=1e-9, atol=1e-12)
    # The constant left out is the part of the reference alone.
    constant = np.mean([(u @ v / 4 + 1.0) ** 3 for u, v in itertools.permutations(ref, 2)])
    np.testing.assert_allclose(actual + constant, expected, rtol=1e-9, atol=1e-12)


def test_unusable_features_are_refused() -> None:
    good, bad = features(10, 4, 0), features(10, 4, 1)
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="10 and 10 images for subsets of 1000"):
        kid(good, good)
    with pytest.raises(InputError, match="NaN or infinite"):
        kid(good, bad, 2, 5)
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        kid(good, good[:, :3], 2, 5)
    with pytest.raises(InputError, match="0 subsets"):
        kid(good, good, 0, 5)
    with pytest.raises(InputError, match="subsets of 1 images"):
        kid(good, good, 2, 1)
