"""Mean and covariance of features as a stream, in float64: more images take more time and no more memory.

Every covariance is the unbiased one, divided by N - 1, as in the ADM evaluator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.quality.metrics.arrays import Array, finite, not_finite, row_slices
from dydit import InputError

SYMMETRIC = 1e-6
"""Largest difference between a covariance and its transpose, as a share of the largest entry."""
ROUNDING = 1e-6
"""Eigenvalues below zero up to this share of the largest are rounding errors, also of files in float32."""
CONSTANT = 1e-11
"""Largest share of its mean square that the variance of a feature is, where only rounding in float32 makes it vary."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean (D,) and covariance (D, D), float64, of the features of `count` images; 0 where that is not known.

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
        _check_positive(covariance)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def constant(self) -> int:
        """How many of the D features have one value in all images, up to rounding."""
        variance = self.covariance.diagonal()
        return int((variance <= CONSTANT * (self.mean**2 + variance)).sum())


def _check_positive(covariance: Array) -> None:
    """Refuse a symmetric matrix (D, D) with an eigenvalue below zero: the roots that the FID takes would be lost.

    Raises:
        InputError: there is one, by more than rounding.
    """
    from scipy.linalg import cholesky

    shifted = covariance.copy(order="F")
    shifted.flat[:: len(shifted) + 1] += ROUNDING * covariance.diagonal().max()
    try:  # a tenth of the time of the eigenvalues, of which the largest is at least the largest variance
        cholesky(shifted, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        lowest, highest = np.linalg.eigvalsh(covariance)[[0, -1]]
        if lowest < -ROUNDING * highest:
            raise InputError(
                f"statistics: the covariance is not positive semi-definite, it has the eigenvalue {lowest:.3g} beside "
                f"{highest:.3g}; get or build it again"
            ) from None


class Moments:
    """Mean and covariance of rows that come in batches, in O(D^2) memory whatever their number.

    Batches and whole streams are joined by the formula of Chan, Golub and LeVeque (1979), so any split of the rows
    gives the statistics of all of them up to rounding. The first row is subtracted from all others, so that no digits
    are lost where the mean is large compared with the spread.
    """

    def __init__(self, dimensions: int) -> None:
        if dimensions < 1:
            raise InputError(f"statistics: {dimensions} dimensions; there must be at least 1")
        self.dimensions = dimensions
        self._count = 0
        self._origin = np.zeros(dimensions)  # the first row
        self._mean = np.zeros(dimensions)  # of the rows less the origin
        # Sum of (row - mean) (row - mean)^T; its upper half, in Fortran's order, so that BLAS adds to it in place.
        self._scatter = np.zeros((dimensions, dimensions), order="F")

    @classmethod
    def of(cls, statistics: Statistics) -> Moments:
        """The stream after the rows behind `statistics`, so that other streams can be merged with it.

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
        blocks = [rows[part] for part in row_slices(len(rows))]
        if not all(np.isfinite(block).all() for block in blocks):
            raise not_finite("features")
        for block in blocks:
            self._add(block)

    def _add(self, block: NDArray[np.generic]) -> None:
        n, total = len(block), self._count + len(block)
        if self._count == 0:
            self._origin = block[0].astype(np.float64)
        # The change of the mean enters as one more row of the product, which saves a pass over a (D, D) matrix.
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
        """Add rows^T rows to the scatter in place, by half the work of a full product."""
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
    """Statistics of rows (N, D) that are all in memory.

    Raises:
        InputError: not two dimensions, fewer than 2 rows, NaN or infinity.
    """
    rows = np.asarray(features)
    if rows.ndim != 2:
        raise InputError(f"statistics: features of shape {rows.shape}; expected (N, D)")
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return moments.statistics()
