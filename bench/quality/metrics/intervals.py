"""How far a metric can be trusted: bootstrap intervals, FID at infinitely many images, images that a difference needs.

All intervals are percentile intervals of resampled images, 95 % unless asked otherwise, and show the noise of drawing
a finite set. They do not show what one training run differs from the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.machine import track
from bench.quality.metrics.frechet import FidReference, FidRows
from bench.quality.metrics.inception_score import inception_score, probabilities
from bench.quality.metrics.kid import checked_pair, kid, resampled_mmd
from bench.quality.metrics.moments import Array, blocks, feature_pair, finite, of_features
from dydit import InputError


class Interval(tuple[float, float]):
    """Low and high end, with the standard deviation of the resampled values in `std`."""

    std: float

    def __new__(cls, ends: Iterable[float], std: float = math.nan) -> Interval:
        interval = super().__new__(cls, ends)
        interval.std = std
        return interval


def bootstrap_fid(
    gen_features: ArrayLike,
    reference: ArrayLike | FidReference,
    *,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the FID under resampling of the generated features; the reference stays as it is.

    A resample has fewer distinct images, so its FID is larger on average than that of the set itself. This bias (which
    would push the interval above the value it belongs to) is subtracted: the mean of the resampled FIDs is moved
    onto the FID. The interval shows the noise of generation, not the bias that a finite N gives any FID.

    On spatial features the same function gives the interval of the sFID.

    Args:
        gen_features: (N, D).
        reference: its features (M, D), or what `FidReference` made of its statistics.
        resamples: draws of N rows with replacement. Each costs a covariance of N rows and D eigenvalues: about a
            second at D = 2048.
        level: share of the resamples inside the interval.
        seed: of the draws.

    Returns:
        Low and high end, not below 0.

    Raises:
        InputError: as `fid`; fewer than 2 resamples; a level outside (0, 1).
    """
    _check_resampling("FID interval", resamples, level)
    rows = _fid_rows("FID interval", gen_features, reference)
    rng = np.random.default_rng(seed)
    draws = np.array([rows.distance(_resample(rng, len(rows))) for _ in track(range(resamples), "FID resamples")])
    return _interval(_centred(draws, rows.distance(_once(len(rows)))), level, at_least=0.0)


def bootstrap_fid_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    reference: ArrayLike | FidReference,
    *,
    resamples: int = 100,
    seed: int = 0,
) -> tuple[float, float, float]:
    """FID(numerator) / FID(denominator) with a 95 % percentile interval, centred as in `bootstrap_fid`.

    Row k of both sets must come from the same label and noise: rows are resampled together, so that luck that both
    share does not widen the interval.

    Args:
        numerator: (N, D).
        denominator: (N, D).
        reference: as in `bootstrap_fid`.
        resamples: draws of N rows with replacement.
        seed: of the draws.

    Raises:
        InputError: as `fid`; sets of different size; a denominator whose FID is 0; fewer than 2 resamples.
    """
    _check_resampling("FID ratio", resamples, 0.95)
    above = _fid_rows("FID ratio", numerator, reference)
    below = _fid_rows("FID ratio", denominator, above.reference)
    if len(above) != len(below):
        raise InputError(f"FID ratio: {len(above)} and {len(below)} images; both need the same seeds")

    def ratio(counts: NDArray[np.int64]) -> float:
        bottom = below.distance(counts)
        if bottom == 0.0:
            raise InputError("FID ratio: the denominator's FID is 0; compare with another set")
        return above.distance(counts) / bottom

    rng = np.random.default_rng(seed)
    value = ratio(_once(len(above)))
    draws = np.array([ratio(_resample(rng, len(above))) for _ in track(range(resamples), "FID ratio resamples")])
    low, high = _interval(_centred(draws, value), 0.95, at_least=0.0)
    return value, low, high


def bootstrap_inception_score(
    probs: ArrayLike, split_size: int, *, resamples: int = 100, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the Inception Score under resampling within each of the protocol's splits.

    Every split keeps its size, so a resample is scored by the same protocol. Fewer distinct images lower the score a
    little; this is subtracted as in `bootstrap_fid`.

    Args:
        probs: class probabilities (N, classes), in sample order.
        split_size: as in `inception_score`.
        resamples: draws of each split's rows with replacement.
        level: share of the resamples inside the interval.
        seed: of the draws.

    Returns:
        Low and high end of the mean over the splits, not below 1.

    Raises:
        InputError: as `inception_score`; fewer than 2 resamples; a level outside (0, 1).
    """
    _check_resampling("Inception Score interval", resamples, level)
    p = probabilities(probs)
    value, _ = inception_score(p, split_size)
    from scipy.special import entr  # -p log p, and 0 where p is 0

    rng = np.random.default_rng(seed)
    scores = []
    for part in blocks(p, split_size):
        counts = np.stack([_resample(rng, len(part)) for _ in range(resamples)]) / len(part)  # (B, n), summing to 1
        scores.append(np.exp(entr(counts @ part).sum(axis=1) - counts @ entr(part).sum(axis=1)))
    return _interval(_centred(np.mean(scores, axis=0), value), level, at_least=1.0)


def bootstrap_kid(
    gen_features: ArrayLike,
    ref_features: ArrayLike,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the KID under resampling of the generated features; the reference stays as it is.

    The resamples are scored over all pairs of rows, which is what the mean over subsets estimates, and centred on `kid`
    with the same arguments. The noise that the choice of the subsets adds is not in the interval. Where the two sets
    are alike to the eye of the KID it is too wide, up to about 1.4 times: there the noise of pairs counts, and a
    resample holds it twice.

    Args:
        gen_features: (N, D).
        ref_features: (M, D).
        subsets: as in `kid`.
        subset_size: as in `kid`.
        resamples: draws of N rows with replacement; they add little, the N x (N + M) kernel values are the cost.
        level: share of the resamples inside the interval.
        seed: of the subsets, and of the draws.

    Raises:
        InputError: as `kid`; fewer than 2 resamples; a level outside (0, 1).
    """
    _check_resampling("KID interval", resamples, level)
    gen, ref = checked_pair(gen_features, ref_features, subsets, subset_size)
    value, _ = kid(gen, ref, subsets, subset_size, seed)
    rng = np.random.default_rng(seed)
    counts = np.stack([_resample(rng, len(gen)) for _ in range(resamples)]).astype(np.float64)
    return _interval(_centred(resampled_mmd(gen, ref, counts), value), level)


def bootstrap_share(
    inside: NDArray[np.bool_], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of precision or recall: the share of true entries of one array of `memberships`.

    The balls stay and the points that are tested against them are resampled. For precision that is all the noise of
    generation. For recall it is the noise of the reference points: how the balls would move with other generated images
    is not in it, so that interval is the least there is.

    Args:
        inside: (N,), bool.
        resamples: draws of N points with replacement.
        level: share of the resamples inside the interval.
        seed: of the draws.

    Raises:
        InputError: no point, not bool, fewer than 2 resamples; a level outside (0, 1).
    """
    _check_resampling("precision and recall interval", resamples, level)
    if inside.ndim != 1 or inside.dtype != np.bool_ or not len(inside):
        raise InputError(
            f"precision and recall interval: {inside.dtype} of shape {inside.shape}; expected memberships, bool (N,)"
        )
    # How many of N draws from such an array are true is a binomial number.
    shares = np.random.default_rng(seed).binomial(len(inside), inside.mean(), size=resamples) / len(inside)
    return _interval(shares, level)


@dataclass(frozen=True)
class FidInfinity:
    """FID extrapolated to infinitely many generated images.

    Attributes:
        value: the fit at 1/N = 0; noise may carry it below 0 where the true distance is small.
        low: low end of the interval.
        high: high end of the interval.
        slope: of FID against 1/N; `slope / N` is the bias of the FID of N images.
        sizes: images in each subset, the largest first, which is the whole set.
        fids: FID of each subset.
    """

    value: float
    low: float
    high: float
    slope: float
    sizes: tuple[int, ...]
    fids: tuple[float, ...]


def fid_infinity(
    gen_features: ArrayLike,
    reference: ArrayLike | FidReference,
    *,
    points: int = 10,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> FidInfinity:
    """FID against 1/N on random subsets, fitted by a line and read at 1/N = 0 (Chong and Forsyth 2020).

    A finite N makes any FID too large, by about c / N once N is well above D. The subsets reach from the whole set down
    to a tenth of it, but not below 2 D or half of the set, whichever is less, and are spaced evenly in 1/N. With fewer
    images than dimensions the line is too flat: the value is nearer to the truth than the FID, and still too large.

    The interval is of the whole procedure, subsets and fit, on resampled rows, centred on the value as in
    `bootstrap_fid`; the fit's own error would be too small, since the subsets share images.

    Args:
        gen_features: (N, D).
        reference: as in `bootstrap_fid`.
        points: subsets on the line, at least 2.
        resamples: draws of N rows with replacement, each fitted anew: `points` times the cost of a resample of
            `bootstrap_fid`.
        level: share of the resamples inside the interval.
        seed: of the subsets and the draws.

    Raises:
        InputError: as `fid`; fewer than 2 images for each point; fewer than 2 points or resamples; a level
            outside (0, 1).
    """
    _check_resampling("FID-infinity", resamples, level)
    rows = _fid_rows("FID-infinity", gen_features, reference)
    if points < 2 or len(rows) < 4 * points:
        raise InputError(
            f"FID-infinity: {len(rows)} images for {points} points; it needs at least 2 points and 4 images for each"
        )
    sizes = _subset_sizes(len(rows), rows.reference.statistics.dimensions, points)
    rng = np.random.default_rng(seed)

    def line(order: NDArray[np.int64]) -> tuple[float, float, list[float]]:
        """Value at 0, slope and FIDs for the rows in `order`, the first subset being all of them."""
        subsets = [order if size == len(rows) else rng.permutation(order)[:size] for size in sizes]
        fids = [rows.distance(np.bincount(subset, minlength=len(rows))) for subset in subsets]
        slope, value = np.polyfit(1.0 / np.array(sizes), fids, 1)
        return float(value), float(slope), fids

    value, slope, fids = line(np.arange(len(rows)))
    draws = np.array(
        [line(rng.integers(len(rows), size=len(rows)))[0] for _ in track(range(resamples), "FID-infinity resamples")]
    )
    low, high = _interval(_centred(draws, value), level)
    return FidInfinity(value, low, high, slope, tuple(sizes), tuple(fids))


def images_needed(std: float, count: int, difference: float = 0.1, level: float = 0.95) -> int:
    """Images in each of two sets so that a measured difference of their metrics is more than noise.

    The noise of a metric falls with the root of N; that of a difference of two is sqrt(2) times as large. A two-sided
    test at `level` then finds `difference` significant. What bias a finite N adds, both sets share.

    Args:
        std: standard deviation of the metric at `count` images, such as `bootstrap_fid(...).std`.
        count: images of the set that was resampled.
        difference: to be told apart, in the unit of the metric.
        level: of the test.

    Raises:
        InputError: a negative or infinite std, a count below 1, a difference not above 0, a level outside (0, 1).
    """
    if not (0.0 <= std < math.inf and count >= 1 and 0.0 < difference < math.inf and 0.0 < level < 1.0):
        raise InputError(
            f"images needed: std {std} of {count} images, difference {difference}, level {level}; "
            "expected std >= 0, count >= 1, difference > 0, level in (0, 1)"
        )
    from scipy.special import ndtri

    deviations = float(ndtri(0.5 + level / 2.0)) * std / difference
    return max(math.ceil(2.0 * count * deviations**2), 2)


def _subset_sizes(count: int, dimensions: int, points: int) -> list[int]:
    """`points` sizes from `count` down, evenly spaced in 1/N."""
    smallest = max(count // 10, min(2 * dimensions, count // 2), 2)
    sizes = np.rint(1.0 / np.linspace(1.0 / count, 1.0 / smallest, points)).astype(int)
    return [int(size) for size in sizes]


def _fid_rows(metric: str, gen_features: ArrayLike, reference: ArrayLike | FidReference) -> FidRows:
    """The generated rows, ready for many FIDs.

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


def _resample(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """How often each of `count` rows is drawn in as many draws with replacement."""
    return np.bincount(rng.integers(count, size=count), minlength=count)


def _once(count: int) -> NDArray[np.int64]:
    return np.ones(count, dtype=np.int64)


def _centred(draws: Array, value: float) -> Array:
    centred: Array = draws - draws.mean() + value
    return centred


def _interval(draws: Array, level: float, at_least: float = -math.inf) -> Interval:
    """Between the quantiles that leave out half of 1 - level on each side."""
    tail = (1.0 - level) / 2.0
    ends = np.quantile(draws, [tail, 1.0 - tail]).clip(min=at_least)
    return Interval(ends.tolist(), float(draws.std(ddof=1)))


def _check_resampling(metric: str, resamples: int, level: float) -> None:
    if resamples < 2 or not 0.0 < level < 1.0:
        raise InputError(f"{metric}: {resamples} resamples at level {level}; it needs at least 2, level in (0, 1)")
