"""FID extrapolated to infinitely many generated images, which makes small sets comparable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.machine import track
from bench.quality.metrics.frechet import FidReference, fid_rows
from bench.quality.metrics.resampling import centred, check_resampling, percentile_interval
from dydit import InputError


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
    """FID against 1/N on random subsets, fitted by a line and extrapolated to 1/N = 0 (Chong and Forsyth 2020).

    A finite N makes any FID too large, by about c / N once N is well above D. The subsets range from the whole set down
    to a tenth of it, but not below 2 D or half of the set, whichever is less, and are spaced evenly in 1/N. With fewer
    images than dimensions the line is too flat: the value is nearer to the truth than the FID, and still too large.

    The interval is that of the whole procedure, subsets and fit, on resampled rows, centred on the value as in
    `intervals.bootstrap_fid`; the fit's own error would be too small, since the subsets share images.

    Args:
        gen_features: (N, D).
        reference: its features (M, D), or what `FidReference` made of its statistics.
        points: subsets on the line, at least 2.
        resamples: draws of N rows with replacement, each fitted anew: `points` times the cost of a resample of
            `intervals.bootstrap_fid`.
        level: share of the resamples inside the interval.
        seed: of the subsets and the draws.

    Raises:
        InputError: as `fid`; fewer than 2 images for each point; fewer than 2 points or resamples; a level
            outside (0, 1).
    """
    check_resampling("FID-infinity", resamples, level)
    rows = fid_rows("FID-infinity", gen_features, reference)
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
    low, high = percentile_interval(centred(draws, value), level)
    return FidInfinity(value, low, high, slope, tuple(sizes), tuple(fids))


def _subset_sizes(count: int, dimensions: int, points: int) -> list[int]:
    """`points` sizes from `count` down, evenly spaced in 1/N."""
    smallest = max(count // 10, min(2 * dimensions, count // 2), 2)
    sizes = np.rint(1.0 / np.linspace(1.0 / count, 1.0 / smallest, points)).astype(int)
    return [int(size) for size in sizes]
