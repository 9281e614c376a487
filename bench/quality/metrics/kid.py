"""Kernel Inception Distance (Bińkowski et al. 2018): unbiased MMD^2 with the kernel (x . y / D + 1)^3."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bench.machine import track
from bench.quality.metrics.arrays import Array, feature_pair, pair_slices
from dydit import InputError


def kid(
    gen_features: ArrayLike, ref_features: ArrayLike, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the KID over random subsets, by torch-fidelity in float64.

    The estimate is unbiased, so that values around 0, negative ones included, mean that no difference was seen. The
    global random generators are left as they are.

    Args:
        gen_features: (N, D).
        ref_features: (M, D).
        subsets: pairs of subsets, one of each set.
        subset_size: rows of a subset, drawn without replacement.
        seed: of the draws.

    Raises:
        InputError: sets smaller than a subset, another D, values that are not finite, or no subset.
    """
    gen, ref = checked_pair(gen_features, ref_features, subsets, subset_size)
    import torch
    from torch_fidelity import metric_kid

    values = metric_kid.kid_features_to_metric(
        torch.from_numpy(gen),
        torch.from_numpy(ref),
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        rng_seed=seed,
        verbose=False,
    )
    return values[metric_kid.KEY_METRIC_KID_MEAN], values[metric_kid.KEY_METRIC_KID_STD]


def checked_pair(
    gen_features: ArrayLike, ref_features: ArrayLike, subsets: int, subset_size: int
) -> tuple[Array, Array]:
    """Both sets as float64, enough for the subsets.

    Raises:
        InputError: as `kid`.
    """
    if subsets < 1 or subset_size < 2:
        raise InputError(f"KID: {subsets} subsets of {subset_size} images; it needs at least 1 of at least 2")
    gen, ref = feature_pair("KID", gen_features, ref_features, at_least=2)
    if min(len(gen), len(ref)) < subset_size:
        raise InputError(
            f"KID: {len(gen)} and {len(ref)} images for subsets of {subset_size}; use smaller subsets or more images"
        )
    return gen, ref


def resampled_mmd(gen: Array, ref: Array, counts: Array) -> Array:
    """(B,) unbiased MMD^2 over all pairs for B resamples of `gen`, up to one constant: the part of `ref` alone.

    Every entry of the kernel matrices is computed once for all resamples; a block of rows is in memory at a time.

    Args:
        gen: (N, D).
        ref: (M, D).
        counts: (B, N), how often each resample contains each row; each row of it sums to N.
    """
    n = len(gen)
    within, across = np.zeros(len(counts)), np.empty(n)
    for rows in track(pair_slices(n, max(n, len(ref))), "KID, all pairs"):
        within += ((_kernel(gen[rows], gen) @ counts.T) * counts[:, rows].T).sum(axis=0)
        across[rows] = _kernel(gen[rows], ref).mean(axis=1)
    self_pairs = counts @ (np.sum(gen**2, axis=1) / gen.shape[1] + 1.0) ** 3
    mmd: Array = (within - self_pairs) / (n * (n - 1)) - 2.0 * (counts @ across) / n
    return mmd


def _kernel(u: Array, v: Array) -> Array:
    """(N, M) of (u . v / D + 1)^3."""
    base: Array = u @ v.T
    base /= u.shape[1]
    base += 1.0
    cube: Array = base * base
    cube *= base
    return cube
