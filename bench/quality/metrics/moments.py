"""Mean, covariance and Inception Score as streams, in float64: more images take more time and no more memory.

Every covariance is the unbiased one, divided by N - 1, as in the ADM evaluator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dydit import InputError

Array = NDArray[np.float64]
Number = TypeVar("Number", bound=np.generic)

ROWS = 1024
"""Rows that are held in float64 at once, however many arrive together."""
SYMMETRIC = 1e-6
"""Largest difference between a covariance and its transpose, as a share of the largest entry."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean (D,) and covariance (D, D), float64, of `count` rows; 0 where the source does not say how many.

    Raises:
        InputError: shapes that do not agree, values that are not finite, or a matrix that is no covariance.
    """

    count: int
    mean: Array
    covariance: Array

    def __post_init__(self) -> None:
        mean, covariance = finite("mean", self.mean, 1), finite("covariance", self.covariance, 2)
        if covariance.shape != 2 * mean.shape or not len(mean):
            raise InputError(
                f"statistics: mean {mean.shape} and covariance {covariance.shape}; one dimension D must serve both"
            )
        if self.count < 0 or self.count == 1:
            raise InputError(f"statistics: of {self.count} images; a covariance needs at least 2 (0: not known)")
        asymmetry, largest = np.abs(covariance - covariance.T).max(), np.abs(covariance).max()
        if asymmetry > SYMMETRIC * largest or covariance.diagonal().min() < 0.0:
            raise InputError("statistics: the covariance is not symmetric or has a negative variance; wrong array?")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)


class Moments:
    """Mean and covariance of rows that come in batches; O(D^2) memory whatever their number.

    Batches and whole streams are joined by the formula of Chan, Golub and LeVeque 1979, so any split of the rows gives
    the statistics of all of them up to rounding. Rows are taken relative to the first one: a mean that is large
    beside the spread costs no digits.
    """

    def __init__(self, dimensions: int) -> None:
        if dimensions < 1:
            raise InputError(f"statistics: {dimensions} dimensions; there must be at least 1")
        self.dimensions = dimensions
        self._count = 0
        self._origin = np.zeros(dimensions)  # the first row
        self._mean = np.zeros(dimensions)  # of the rows less the origin
        # Sum of (row - mean) (row - mean)^T: the upper half, in the order in which BLAS adds to it in place.
        self._scatter = np.zeros((dimensions, dimensions), order="F")

    @classmethod
    def of(cls, statistics: Statistics) -> Moments:
        """What the rows behind `statistics` left, so that other streams can be merged with them.

        Raises:
            InputError: statistics that do not say how many rows they stand for.
        """
        if statistics.count < 2:
            raise InputError("statistics: the number of images is not known; they cannot be merged with others")
        moments = cls(statistics.dimensions)
        moments._count = statistics.count
        moments._origin = statistics.mean.copy()
        moments._scatter = np.asfortranarray(statistics.covariance * (statistics.count - 1))
        return moments

    @property
    def count(self) -> int:
        """Rows so far."""
        return self._count

    def update(self, features: ArrayLike) -> None:
        """Add rows (n, D) of any real type.

        Raises:
            InputError: another shape, NaN or infinity; nothing is added then.
        """
        rows = np.asarray(features)
        if rows.ndim != 2 or rows.shape[1] != self.dimensions:
            raise InputError(f"statistics: features of shape {rows.shape}; expected (n, {self.dimensions})")
        for block in blocks(rows):
            if not np.isfinite(block).all():
                raise _not_finite("features")
        for block in blocks(rows):
            self._add(block)

    def _add(self, block: NDArray[np.generic]) -> None:
        n, total = len(block), self._count + len(block)
        if self._count == 0:
            self._origin = block[0].astype(np.float64)
        # The shift of the mean is one more row of the same product: no second pass over a (D, D) matrix.
        rows = np.empty((n + 1, self.dimensions))
        np.subtract(block, self._origin, out=rows[:n])
        mean = rows[:n].mean(axis=0)
        rows[:n] -= mean
        shift = mean - self._mean
        rows[n] = np.sqrt(self._count * n / total) * shift
        self._add_products(rows)
        self._mean += shift * (n / total)
        self._count = total

    def _add_products(self, rows: Array) -> None:
        """Add rows^T rows to the scatter: half the work of a full product, and no second (D, D) matrix."""
        from scipy.linalg.blas import dsyrk

        self._scatter = dsyrk(1.0, rows.T, beta=1.0, c=self._scatter, overwrite_c=True)

    def merge(self, other: Moments) -> None:
        """Add all rows of `other`, which stays as it is.

        Raises:
            InputError: another dimension.
        """
        if other.dimensions != self.dimensions:
            raise InputError(
                f"statistics: {self.dimensions} and {other.dimensions} dimensions; use one extractor for both"
            )
        if other._count == 0:
            return
        if self._count == 0:
            self._origin = other._origin.copy()
        total = self._count + other._count
        shift = (other._origin - self._origin) + other._mean - self._mean
        self._scatter += other._scatter
        self._add_products(np.sqrt(self._count * other._count / total) * shift[None])
        self._mean += shift * (other._count / total)
        self._count = total

    def statistics(self) -> Statistics:
        """Of the rows so far; more may follow.

        Raises:
            InputError: fewer than 2 rows.
        """
        if self._count < 2:
            raise InputError(f"statistics: {self._count} images; a covariance needs at least 2")
        covariance = np.triu(self._scatter)
        covariance += np.triu(self._scatter, 1).T
        covariance /= self._count - 1
        return Statistics(self._count, self._origin + self._mean, covariance)


def of_features(features: ArrayLike) -> Statistics:
    """Statistics of rows (N, D) that are all here.

    Raises:
        InputError: not two dimensions, fewer than 2 rows, NaN or infinity.
    """
    rows = np.asarray(features)
    if rows.ndim != 2:
        raise InputError(f"statistics: features of shape {rows.shape}; expected (N, D)")
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return moments.statistics()


def feature_pair(metric: str, first: ArrayLike, second: ArrayLike, at_least: int) -> tuple[Array, Array]:
    """Two sets of features, (N, D) and (M, D), as float64, checked to be comparable.

    Raises:
        InputError: not two sets of at least `at_least` finite rows with the same D; named by `metric`.
    """
    a, b = finite(f"{metric}: features", first, 2), finite(f"{metric}: features", second, 2)
    if a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise InputError(f"{metric}: features of {a.shape[1]} and {b.shape[1]} dimensions; use one extractor for both")
    if min(len(a), len(b)) < at_least:
        raise InputError(f"{metric}: {len(a)} and {len(b)} images; it needs at least {at_least} of each")
    return a, b


def finite(name: str, values: ArrayLike, ndim: int) -> Array:
    """The values as float64 with `ndim` dimensions, none of them NaN or infinite.

    Raises:
        InputError: otherwise; names them by `name`.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim:
        raise InputError(f"{name}: shape {array.shape}; expected {ndim} dimension(s)")
    if not np.isfinite(array).all():
        raise _not_finite(name)
    return array


def blocks(rows: NDArray[Number], size: int = ROWS) -> Iterator[NDArray[Number]]:
    """Views of at most `size` rows, in order."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _not_finite(name: str) -> InputError:
    return InputError(f"{name}: NaN or infinite values; the images or the extractor's weights are broken")
