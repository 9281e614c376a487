"""Arrays of features as every metric takes them: checked, in float64, and worked on in blocks of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dydit import InputError

Array = NDArray[np.float64]
BLOCK_ROWS = 1024
"""Rows that are worked on at once, so that memory does not grow with the number of images."""
BLOCK_PAIRS = 2**24
"""Pairs of rows that are worked on at once, for the same reason: 128 MiB in float64."""


def finite(name: str, values: ArrayLike, ndim: int) -> Array:
    """The values as float64 with `ndim` dimensions, none of them NaN or infinite.

    Raises:
        InputError: otherwise; the message calls the values `name`.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim:
        raise InputError(f"{name}: shape {array.shape}; expected {ndim} dimension(s)")
    if not np.isfinite(array).all():
        raise not_finite(name)
    return array


def feature_pair(metric: str, first: ArrayLike, second: ArrayLike, at_least: int) -> tuple[Array, Array]:
    """Two sets of features, (N, D) and (M, D), as float64, checked to be comparable.

    Raises:
        InputError: not two sets of at least `at_least` finite rows with the same D; the message names the `metric`.
    """
    a, b = finite(f"{metric}: features", first, 2), finite(f"{metric}: features", second, 2)
    if a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise InputError(f"{metric}: features of {a.shape[1]} and {b.shape[1]} dimensions; use one extractor for both")
    if min(len(a), len(b)) < at_least:
        raise InputError(f"{metric}: {len(a)} and {len(b)} images; it needs at least {at_least} of each")
    return a, b


def row_slices(count: int, size: int | None = None) -> list[slice]:
    """Slices of at most `size` rows (by default `BLOCK_ROWS`) that cover `count` rows in order."""
    step = size or BLOCK_ROWS
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def pair_slices(count: int, others: int) -> list[slice]:
    """Slices that cover `count` rows in order, each with at most `BLOCK_PAIRS` pairs with the `others`."""
    return row_slices(count, min(BLOCK_ROWS, max(1, BLOCK_PAIRS // max(1, others))))


def not_finite(name: str) -> InputError:
    """The error for features (`name` says which) that are NaN or infinite."""
    return InputError(f"{name}: NaN or infinite values; the images or the extractor's weights are broken")
