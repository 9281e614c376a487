"""Kernel Inception Distance (Bińkowski et al. 2018): unbiased MMD^2 with the kernel (x . y / D + 1)^3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.machine import track
from bench.quality.metrics.arrays import Array, feature_pair, pair_slices
from dydit import InputError


def kid(
    gen_features: ArrayLike, ref_features: ArrayLike, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the KID over random subsets, in float64; the subsets are torch-fidelity's.

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
    generator = np.random.RandomState(seed)
    drawn = [[generator.choice(len(rows), subset_size, replace=False) for rows in (gen, ref)] for _ in range(subsets)]
    if (len(gen) + len(ref)) ** 2 <= subsets * (2 * subset_size) ** 2:
        # The subsets have more pairs of rows than there are: each is computed once, for all subsets.
        values = _mmd(
            gen,
            ref,
            *(_marks(chosen, len(rows)) for chosen, rows in zip(zip(*drawn, strict=True), (gen, ref), strict=True)),
        )
    else:
        all_rows = np.ones((1, subset_size))
        parts = [_mmd(gen[own], ref[others], all_rows, all_rows) for own, others in track(drawn, "KID, subsets")]
        values = np.concatenate(parts)
    return float(values.mean()), float(values.std())


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
    mmd: Array = (within - counts @ _self_kernel(gen)) / (n * (n - 1)) - 2.0 * (counts @ across) / n
    return mmd


def _marks(drawn: Sequence[NDArray[np.integer[Any]]], count: int) -> Array:
    """(B, N): 1 where a subset has the row, else 0."""
    marks = np.zeros((len(drawn), count))
    for row, chosen in zip(marks, drawn, strict=True):
        row[chosen] = 1.0
    return marks


def _mmd(gen: Array, ref: Array, in_gen: Array, in_ref: Array) -> Array:
    """(B,) unbiased MMD^2 of the subsets that are marked in (B, N) and (B, M), all of one size."""
    size = in_gen[0].sum()
    within = np.zeros(len(in_gen))
    for rows, marks in ((gen, in_gen), (ref, in_ref)):
        within += _sums(rows, rows, marks, marks) - marks @ _self_kernel(rows)
    mmd: Array = within / (size * (size - 1)) - 2.0 * _sums(gen, ref, in_gen, in_ref) / size**2
    return mmd


def _sums(u: Array, v: Array, in_u: Array, in_v: Array) -> Array:
    """(B,) sums of the kernel over the pairs of rows of u (N, D) and v (M, D) that each subset has."""
    total = np.zeros(len(in_u))
    for rows in pair_slices(len(u), len(v)):
        total += ((in_u[:, rows] @ _kernel(u[rows], v)) * in_v).sum(axis=1)
    return total


def _self_kernel(rows: Array) -> Array:
    """(N,) the kernel of every row with itself."""
    values: Array = (np.sum(rows**2, axis=1) / rows.shape[1] + 1.0) ** 3
    return values


def _kernel(u: Array, v: Array) -> Array:
    """(N, M) of (u . v / D + 1)^3."""
    base: Array = u @ v.T
    base /= u.shape[1]
    base += 1.0
    cube: Array = base * base
    cube *= base
    return cube
