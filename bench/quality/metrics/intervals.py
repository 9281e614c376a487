"""How far a metric can be trusted: bootstrap intervals, and how many images tell a difference from noise.

All intervals are percentile intervals of resampled images, 95 % unless asked otherwise. They show the noise of drawing
a finite set, not how one training run differs from the next.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.machine import track
from bench.quality.metrics.arrays import row_slices
from bench.quality.metrics.frechet import FidReference, fid_rows
from bench.quality.metrics.inception_score import inception_score, probabilities
from bench.quality.metrics.kid import checked_pair, kid, resampled_mmd
from bench.quality.metrics.resampling import (
    Interval,
    centred,
    check_resampling,
    draw_counts,
    every_row_once,
    percentile_interval,
)
from dydit import InputError


def bootstrap_fid(
    gen_features: ArrayLike,
    reference: ArrayLike | FidReference,
    *,
    resamples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the FID under resampling of the generated features; the reference stays as it is.

    A resample has fewer distinct images, so its FID is larger on average than that of the set itself. This bias, which
    would push the interval above the value it belongs to, is subtracted: the resampled FIDs are shifted so that their
    mean is the FID. The interval shows the noise of generation, not the bias that a finite N gives any FID.

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
    check_resampling("FID interval", resamples, level)
    rows = fid_rows("FID interval", gen_features, reference)
    rng = np.random.default_rng(seed)
    draws = np.array([rows.distance(draw_counts(rng, len(rows))) for _ in track(range(resamples), "FID resamples")])
    return percentile_interval(centred(draws, rows.distance(every_row_once(len(rows)))), level, at_least=0.0)


def bootstrap_fid_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    reference: ArrayLike | FidReference,
    *,
    resamples: int = 100,
    seed: int = 0,
) -> tuple[float, float, float]:
    """FID(numerator) / FID(denominator) with a 95 % percentile interval, centred as in `bootstrap_fid`.

    Row k of both sets must come from the same label and noise: rows are resampled together, so that noise which both
    sets share does not widen the interval.

    Args:
        numerator: (N, D).
        denominator: (N, D).
        reference: as in `bootstrap_fid`.
        resamples: draws of N rows with replacement.
        seed: of the draws.

    Raises:
        InputError: as `fid`; sets of different size; a denominator whose FID is 0; fewer than 2 resamples.
    """
    check_resampling("FID ratio", resamples, 0.95)
    above = fid_rows("FID ratio", numerator, reference)
    below = fid_rows("FID ratio", denominator, above.reference)
    if len(above) != len(below):
        raise InputError(f"FID ratio: {len(above)} and {len(below)} images; both need the same seeds")

    def ratio(counts: NDArray[np.int64]) -> float:
        bottom = below.distance(counts)
        if bottom == 0.0:
            raise InputError("FID ratio: the denominator's FID is 0; compare with another set")
        return above.distance(counts) / bottom

    rng = np.random.default_rng(seed)
    value = ratio(every_row_once(len(above)))
    draws = np.array([ratio(draw_counts(rng, len(above))) for _ in track(range(resamples), "FID ratio resamples")])
    low, high = percentile_interval(centred(draws, value), 0.95, at_least=0.0)
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
    check_resampling("Inception Score interval", resamples, level)
    p = probabilities(probs)
    value, _ = inception_score(p, split_size)
    from scipy.special import entr  # -p log p, and 0 where p is 0

    rng = np.random.default_rng(seed)
    scores = []
    for rows in row_slices(len(p), split_size):
        part = p[rows]
        counts = np.stack([draw_counts(rng, len(part)) for _ in range(resamples)]) / len(part)  # (B, n), summing to 1
        scores.append(np.exp(entr(counts @ part).sum(axis=1) - counts @ entr(part).sum(axis=1)))
    return percentile_interval(centred(np.mean(scores, axis=0), value), level, at_least=1.0)


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
    with the same arguments. The noise that the choice of the subsets adds is not in the interval. Where the KID is near
    0 the interval is too wide, up to about 1.4 times: the noise of pairs prevails there, and a resample doubles it.

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
    check_resampling("KID interval", resamples, level)
    gen, ref = checked_pair(gen_features, ref_features, subsets, subset_size)
    value, _ = kid(gen, ref, subsets, subset_size, seed)
    rng = np.random.default_rng(seed)
    counts = np.stack([draw_counts(rng, len(gen)) for _ in range(resamples)]).astype(np.float64)
    return percentile_interval(centred(resampled_mmd(gen, ref, counts), value), level)


def bootstrap_share(
    inside: NDArray[np.bool_], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of precision or recall: the share of true entries of one array of `memberships`.

    The balls stay, and the points that are tested against them are resampled. For precision that is all the noise of
    generation. For recall it is the noise of the reference points alone: other generated images would move the balls,
    which the interval does not show, so that it is a lower bound.

    Args:
        inside: (N,), bool.
        resamples: draws of N points with replacement.
        level: share of the resamples inside the interval.
        seed: of the draws.

    Raises:
        InputError: no point, not bool, fewer than 2 resamples; a level outside (0, 1).
    """
    check_resampling("precision and recall interval", resamples, level)
    if inside.ndim != 1 or inside.dtype != np.bool_ or not len(inside):
        raise InputError(
            f"precision and recall interval: {inside.dtype} of shape {inside.shape}; expected memberships, bool (N,)"
        )
    # How many of N draws from such an array are true is a binomial number.
    shares = np.random.default_rng(seed).binomial(len(inside), inside.mean(), size=resamples) / len(inside)
    return percentile_interval(shares, level)


def images_needed(std: float, count: int, difference: float = 0.1, level: float = 0.95) -> int:
    """Images that each of two sets must have so that a two-sided test finds a difference of their metrics significant.

    The noise of a metric falls with the root of N; that of a difference of two is sqrt(2) times as large. The bias that
    a finite N adds is the same in both sets.

    Args:
        std: standard deviation of the metric at `count` images, such as `bootstrap_fid(...).std`.
        count: images of the set that was resampled.
        difference: that shall be significant, in the unit of the metric.
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
