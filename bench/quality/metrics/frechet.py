"""Fréchet Inception distance between Gaussians (Heusel et al. 2017), for many sets against one reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.quality.metrics.arrays import Array, feature_pair, finite
from bench.quality.metrics.moments import Statistics, of_features
from dydit import InputError


class FidReference:
    """The reference of the FID, |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), factorised once for many (mu2, S2).

    With S1 = L L^T the trace of the root is the sum of the roots of the eigenvalues of L^T S2 L, which is symmetric.
    There are no complex numbers, and no iteration that fails when S1 or S2 is singular (fewer images than dimensions).

    Attributes:
        statistics: mean and covariance of the reference.
        factor: L, (D, rank).
    """

    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics
        self.factor = _factor(statistics.covariance)
        self.trace = float(np.trace(statistics.covariance))

    def distance(self, other: Statistics) -> float:
        """FID to `other`; at least 0.

        Raises:
            InputError: another dimension.
        """
        if other.dimensions != self.statistics.dimensions:
            raise InputError(
                f"FID: features of {self.statistics.dimensions} and {other.dimensions} dimensions; "
                "use one extractor for both"
            )
        product = self.factor.T @ other.covariance @ self.factor
        shift = other.mean - self.statistics.mean
        return self.assemble(shift, float(np.trace(other.covariance)), product)

    def assemble(self, shift: Array, trace: float, product: Array) -> float:
        """FID from its three parts.

        Args:
            shift: mu2 - mu1 (D,).
            trace: tr S2.
            product: a symmetric matrix with the non-zero eigenvalues of S1 S2, such as L^T S2 L.
        """
        distance = float(shift @ shift) + self.trace + trace - 2.0 * _root_trace(product)
        return max(distance, 0.0)  # rounding may leave -1e-12 for equal Gaussians


class FidRows:
    """Rows of features prepared for many FIDs of their subsets and resamples against one reference.

    The rows are projected onto L once. A resample then costs one matrix product of its distinct rows with themselves
    and one set of eigenvalues, of the smaller of the two products: (rank, rank) or (rows, rows).
    """

    def __init__(self, reference: FidReference, features: Array) -> None:
        """Prepare the rows.

        Args:
            reference: the other side.
            features: (N, D), float64.

        Raises:
            InputError: another dimension, or values that are not finite.
        """
        rows = finite("FID: features", features, 2)
        if rows.shape[1] != reference.statistics.dimensions:
            raise InputError(
                f"FID: features of {rows.shape[1]} and {reference.statistics.dimensions} dimensions; "
                "use one extractor for both"
            )
        self.reference = reference
        self._rows = rows - reference.statistics.mean  # so that sums of squares lose no digits
        self._squares = np.sum(self._rows**2, axis=1)
        self._projected = self._rows @ reference.factor  # (N, rank)

    def __len__(self) -> int:
        return len(self._rows)

    def distance(self, counts: NDArray[np.int64]) -> float:
        """FID of the set that holds row k `counts[k]` times, with its own mean and unbiased covariance.

        Args:
            counts: (N,), summing to at least 2.
        """
        n = int(counts.sum())
        kept = np.flatnonzero(counts)
        weights = counts[kept].astype(np.float64)
        shift = counts @ self._rows / n
        rows = self._projected[kept]
        rows -= weights @ rows / n
        rows *= np.sqrt(weights / (n - 1))[:, None]
        trace = (weights @ self._squares[kept] - n * float(shift @ shift)) / (n - 1)
        product = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
        return self.reference.assemble(shift, float(trace), product)


def fid_from_statistics(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """FID between two Gaussians, by `FidReference`.

    Args:
        mu1: mean (D,).
        sigma1: covariance (D, D).
        mu2: mean (D,).
        sigma2: covariance (D, D).

    Raises:
        InputError: shapes that do not agree, values that are not finite, or a matrix that is no covariance.
    """
    first, second = (
        Statistics(0, finite("mean", mu, 1), finite("covariance", sigma, 2))
        for mu, sigma in ((mu1, sigma1), (mu2, sigma2))
    )
    return FidReference(first).distance(second)


def fid(features1: ArrayLike, features2: ArrayLike) -> float:
    """FID between two sets of features, (N, D) and (M, D), with the unbiased covariance of each.

    Raises:
        InputError: fewer than 2 rows, another D, or values that are not finite.
    """
    first, second = feature_pair("FID", features1, features2, at_least=2)
    return FidReference(of_features(first)).distance(of_features(second))


def fid_rows(metric: str, gen_features: ArrayLike, reference: ArrayLike | FidReference) -> FidRows:
    """The generated rows, prepared for many FIDs; the messages name the `metric`.

    Args:
        metric: for messages.
        gen_features: (N, D).
        reference: its features (M, D), or what `FidReference` made of its statistics.

    Raises:
        InputError: fewer than 2 rows, another D, or values that are not finite.
    """
    if isinstance(reference, FidReference):
        gen = finite(f"{metric}: features", gen_features, 2)
        if len(gen) < 2:
            raise InputError(f"{metric}: {len(gen)} images; it needs at least 2")
    else:
        gen, ref = feature_pair(metric, gen_features, reference, at_least=2)
        reference = FidReference(of_features(ref))
    return FidRows(reference, gen)


def _factor(covariance: Array) -> Array:
    """L (D, rank) with covariance = L L^T: Cholesky's factor, or from eigenvectors where the matrix is singular."""
    from scipy.linalg import cholesky

    rounding = len(covariance) * np.finfo(np.float64).eps
    try:
        lower: Array = cholesky(covariance, lower=True, check_finite=False)
        if lower.diagonal().min() ** 2 > rounding * covariance.diagonal().max():
            return lower
    except np.linalg.LinAlgError:
        pass  # singular
    values, vectors = np.linalg.eigh(covariance)
    # Directions without variance would add only the root of their rounding error, 1e-8 each, and are left out.
    kept = values > rounding * values.max()
    factor: Array = vectors[:, kept] * np.sqrt(values[kept])
    return factor


def _root_trace(product: Array) -> float:
    """Sum of the roots of the eigenvalues; negative ones are rounding errors and count as 0."""
    from scipy.linalg import eigvalsh  # faster than numpy's at D = 2048

    return float(np.sqrt(eigvalsh(product, check_finite=False).clip(min=0.0)).sum())
