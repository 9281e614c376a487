"""Resamples of a set of images, and the percentile intervals of the values that they give."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bench.quality.metrics.arrays import Array
from dydit import InputError


class Interval(tuple[float, float]):
    """Low and high end, with the standard deviation of the resampled values in `std`."""

    std: float

    def __new__(cls, ends: Iterable[float], std: float = math.nan) -> Interval:
        interval = super().__new__(cls, ends)
        interval.std = std
        return interval


def check_resampling(metric: str, resamples: int, level: float) -> None:
    """Refuse numbers that give no interval.

    Raises:
        InputError: fewer than 2 resamples, or a level outside (0, 1); the message names the `metric`.
    """
    if resamples < 2 or not 0.0 < level < 1.0:
        raise InputError(f"{metric}: {resamples} resamples at level {level}; it needs at least 2, level in (0, 1)")


def draw_counts(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """How often each of `count` rows is drawn in as many draws with replacement."""
    return np.bincount(rng.integers(count, size=count), minlength=count)


def every_row_once(count: int) -> NDArray[np.int64]:
    """The counts of the set itself."""
    return np.ones(count, dtype=np.int64)


def centred(draws: Array, value: float) -> Array:
    """Resampled values, shifted so that their mean is the value of the set itself."""
    shifted: Array = draws - draws.mean() + value
    return shifted


def percentile_interval(draws: Array, level: float, at_least: float = -math.inf) -> Interval:
    """Between the quantiles that leave out half of 1 - level on each side; no end below `at_least`."""
    tail = (1.0 - level) / 2.0
    ends = np.quantile(draws, [tail, 1.0 - tail]).clip(min=at_least)
    return Interval(ends.tolist(), float(draws.std(ddof=1)))
