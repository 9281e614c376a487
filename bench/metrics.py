"""FID, Inception Score, precision and recall on given features, in float64, by the ADM protocol.

Every function takes arrays and returns floats; nothing here knows images or networks. The definitions follow
Heusel et al. 2017 (FID), Salimans et al. 2016 (Inception Score) and Kynkäänniemi et al. 2019 (precision, recall) with
the conventions of the ADM evaluator: covariance with N - 1, splits in sample order, k = 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dydit.errors import InputError

Array = NDArray[np.float64]

SAME_POINT = 1e-12
"""Squared distances below this share of |u|^2 + |v|^2 are rounding (float64: about 1e-15) and count as zero."""
ROWS = 1024
"""Rows of a distance matrix held at once: memory is ROWS x points instead of points squared."""


def fid_from_statistics(mu1: ArrayLike, sigma1: ArrayLike, mu2: ArrayLike, sigma2: ArrayLike) -> float:
    """Fréchet distance |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) between two Gaussians.

    With S1 = L L^T the trace of the root is the sum of the roots of the eigenvalues of L^T S2 L, which is symmetric:
    no complex numbers, and no iteration that fails when S1 or S2 is singular (fewer images than dimensions).

    Args:
        mu1: mean (D,).
        sigma1: covariance (D, D).
        mu2: mean (D,).
        sigma2: covariance (D, D).

    Raises:
        InputError: shapes that do not agree, or values that are not finite.
    """
    mu1, mu2 = _finite("mu1", mu1, 1), _finite("mu2", mu2, 1)
    sigma1, sigma2 = _finite("sigma1", sigma1, 2), _finite("sigma2", sigma2, 2)
    if mu1.shape != mu2.shape or not sigma1.shape == sigma2.shape == 2 * mu1.shape:
        raise InputError(
            f"FID: means {mu1.shape} and {mu2.shape}, covariances {sigma1.shape} and {sigma2.shape}; "
            "one dimension D must serve all four"
        )
    values, vectors = np.linalg.eigh(sigma1)
    # Directions without variance add nothing to the trace but the root of their rounding error, 1e-8 each: left out.
    kept = values > values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps
    factor = vectors[:, kept] * np.sqrt(values[kept])  # (D, rank)
    product = factor.T @ sigma2 @ factor
    root_trace = np.sqrt(np.linalg.eigvalsh(product).clip(min=0.0)).sum()
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1) + np.trace(sigma2) - 2.0 * root_trace
    return max(float(distance), 0.0)  # a distance; rounding may leave -1e-12 for equal Gaussians


def fid(features1: ArrayLike, features2: ArrayLike) -> float:
    """FID between two sets of features, (N, D) and (M, D), with the unbiased covariance of each.

    Raises:
        InputError: fewer than 2 rows, another D, or values that are not finite.
    """
    first, second = _feature_pair("FID", features1, features2, at_least=2)
    return fid_from_statistics(*_statistics(first), *_statistics(second))


def bootstrap_fid(
    gen_features: ArrayLike, ref_features: ArrayLike, *, resamples: int = 100, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the FID under resampling of the generated features; the reference stays as it is.

    A resample has fewer distinct images, so its FID is larger on average than that of the set itself. This bias (which
    would push the interval above the value it belongs to) is subtracted: the mean of the resampled FIDs is moved
    onto the FID. The interval shows the noise of generation, not the bias that a finite N gives any FID.

    Args:
        gen_features: (N, D).
        ref_features: (M, D).
        resamples: draws of N rows with replacement.
        level: share of the resamples inside the interval.
        seed: of the draws.

    Returns:
        Low and high end, not below 0.

    Raises:
        InputError: as `fid`; fewer than 2 resamples; a level outside (0, 1).
    """
    gen, ref = _feature_pair("FID interval", gen_features, ref_features, at_least=2)
    if resamples < 2 or not 0.0 < level < 1.0:
        raise InputError(f"FID interval: {resamples} resamples at level {level}; it needs at least 2, level in (0, 1)")
    rng = np.random.default_rng(seed)
    reference = _statistics(ref)
    draws = np.array(
        [
            fid_from_statistics(*reference, *_statistics(gen[rng.integers(len(gen), size=len(gen))]))
            for _ in range(resamples)
        ]
    )
    centred = draws - draws.mean() + fid_from_statistics(*reference, *_statistics(gen))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(centred, [tail, 1.0 - tail]).clip(min=0.0)
    return float(low), float(high)


def bootstrap_fid_ratio(
    numerator: ArrayLike, denominator: ArrayLike, ref_features: ArrayLike, *, resamples: int = 100, seed: int = 0
) -> tuple[float, float, float]:
    """FID(numerator) / FID(denominator) with a 95 % percentile interval, centred as in `bootstrap_fid`.

    Row k of both sets must come from the same label and noise: rows are resampled together, so that luck that both
    share does not widen the interval.

    Args:
        numerator: (N, D).
        denominator: (N, D).
        ref_features: (M, D).
        resamples: draws of N rows with replacement.
        seed: of the draws.

    Raises:
        InputError: as `fid`; sets of different size; a denominator whose FID is 0.
    """
    above, ref = _feature_pair("FID ratio", numerator, ref_features, at_least=2)
    below, _ = _feature_pair("FID ratio", denominator, ref_features, at_least=2)
    if len(above) != len(below):
        raise InputError(f"FID ratio: {len(above)} and {len(below)} images; both need the same seeds")
    reference = _statistics(ref)

    def ratio(rows: NDArray[np.int64]) -> float:
        bottom = fid_from_statistics(*reference, *_statistics(below[rows]))
        if bottom == 0.0:
            raise InputError("FID ratio: the denominator's FID is 0; compare with another set")
        return fid_from_statistics(*reference, *_statistics(above[rows])) / bottom

    rng = np.random.default_rng(seed)
    value = ratio(np.arange(len(above)))
    draws = np.array([ratio(rng.integers(len(above), size=len(above))) for _ in range(resamples)])
    low, high = np.quantile(draws - draws.mean() + value, [0.025, 0.975]).clip(min=0.0)
    return value, float(low), float(high)


def inception_score(probs: ArrayLike, split_size: int) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))).

    Splits are consecutive runs of `split_size` rows in sample order; a shorter last one counts like the others, as in
    the ADM evaluator.

    Args:
        probs: class probabilities (N, classes), rows summing to 1.
        split_size: rows per split (5,000 in the ADM protocol).

    Raises:
        InputError: rows that are not probabilities, or no row, or a split size below 1.
    """
    p = _finite("probabilities", probs, 2)
    if split_size < 1 or len(p) < 1:
        raise InputError(f"Inception Score: {len(p)} rows in splits of {split_size}; both must be at least 1")
    if p.min() < 0.0 or np.abs(p.sum(axis=1) - 1.0).max() > 1e-3:
        raise InputError("Inception Score: rows are not probabilities (each >= 0, summing to 1); apply softmax first")
    from scipy.special import rel_entr  # p * log(p / q), and 0 where p is 0

    scores = []
    for start in range(0, len(p), split_size):
        part = p[start : start + split_size]
        scores.append(np.exp(rel_entr(part, part.mean(axis=0, keepdims=True)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall(ref_features: ArrayLike, gen_features: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: shares of one set inside the union of the other set's k-nearest-neighbour balls.

    Each point's ball reaches to its k-th nearest neighbour in its own set, itself not counted; the rim belongs to the
    ball. Squared distances in float64 are compared, as the ADM evaluator does in float32.

    Args:
        ref_features: (M, D).
        gen_features: (N, D).
        k: neighbours that set the radius.

    Returns:
        Precision (generated points inside the reference's balls) and recall (the reverse).

    Raises:
        InputError: k below 1 or not below either count, another D, or values that are not finite.
    """
    if k < 1:
        raise InputError(f"precision and recall: k = {k}; it must be at least 1")
    ref, gen = _feature_pair("precision and recall", ref_features, gen_features, at_least=k + 1)
    centre = ref.mean(axis=0)  # distances do not change; a common offset would only eat digits
    ref, gen = ref - centre, gen - centre
    return _share_inside(gen, ref, k), _share_inside(ref, gen, k)


def _share_inside(points: Array, manifold: Array, k: int) -> float:
    """Share of `points` within the k-th-neighbour ball of at least one point of `manifold`."""
    radii = np.concatenate(
        # Index k of the sorted row: index 0 is the point itself.
        [np.partition(_squared_distances(rows, manifold), k, axis=1)[:, k] for rows in _blocks(manifold)]
    )
    inside = [(_squared_distances(rows, manifold) <= radii).any(axis=1) for rows in _blocks(points)]
    return float(np.concatenate(inside).mean())


def _squared_distances(u: Array, v: Array) -> Array:
    """(N, M) squared distances; one matrix product, so equal points are set to exactly zero afterwards."""
    size = np.sum(u**2, axis=1)[:, None] + np.sum(v**2, axis=1)
    squared: Array = size - 2.0 * (u @ v.T)
    squared[squared < SAME_POINT * size] = 0.0
    return squared


def _blocks(points: Array) -> list[Array]:
    return [points[start : start + ROWS] for start in range(0, len(points), ROWS)]


def _statistics(features: Array) -> tuple[Array, Array]:
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def _feature_pair(metric: str, first: ArrayLike, second: ArrayLike, at_least: int) -> tuple[Array, Array]:
    """Both as float64 (N, D), checked to be comparable.

    Raises:
        InputError: not two sets of at least `at_least` finite rows with the same D.
    """
    a, b = _finite(f"{metric}: features", first, 2), _finite(f"{metric}: features", second, 2)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"{metric}: features of {a.shape[1]} and {b.shape[1]} dimensions; use one extractor for both")
    if min(len(a), len(b)) < at_least:
        raise InputError(f"{metric}: {len(a)} and {len(b)} images; it needs at least {at_least} of each")
    return a, b


def _finite(name: str, values: ArrayLike, ndim: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim:
        raise InputError(f"{name}: shape {array.shape}; expected {ndim} dimension(s)")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: NaN or infinite values; the images or the extractor's weights are broken")
    return array
