"""The ratio of two measured values, and its interval: from raw samples where both runs keep them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
Interval = tuple[float, float]


def samples_of(record: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[float, ...]:
    """The times of all rounds, in ms, behind a row of latency.csv; empty where the record does not keep them.

    Samples do not name their resolution: those of a run at several cannot be told apart, and are not used.
    """
    case = str(row.get("engine", ""))
    if case == "masked":
        case += f" {row.get('lambda')}"
    elif case == "realised":
        case += f" {row.get('lambda')} {row.get('profile')}"
    kept = record.get("samples")
    found = [
        sample
        for sample in (kept if isinstance(kept, list) else [])
        if isinstance(sample, dict) and sample.get("model") == row.get("model")
        if sample.get("batch") == row.get("batch") and sample.get("case") == case
    ]
    return tuple(map(float, found[0]["rounds_ms"])) if len(found) == 1 else ()


def median_ratio(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Interval:
    """The 95 % bootstrap interval of median(other) / median(one).

    The rounds of both runs are drawn independently: they were not taken in turns. What differs between two runs of the
    same code, such as the machine's other work, is not contained.
    """
    rng = np.random.default_rng(seed)
    medians = [
        np.median(np.asarray(times)[rng.integers(len(times), size=(RESAMPLES, len(times)))], axis=1)
        for times in (one, other)
    ]
    low, high = np.quantile(medians[1] / medians[0], [0.025, 0.975])
    return float(low), float(high)


def combined(one: tuple[float, float, float], other: tuple[float, float, float]) -> Interval | None:
    """The interval of other / one of two values (value, low, high) whose intervals are independent.

    Distances on the logarithmic scale add as the roots of their squares. None: a value or an end is not positive.
    """
    if min(*one, *other) <= 0 or not all(map(math.isfinite, (*one, *other))):
        return None
    middle = math.log(other[0] / one[0])
    below = math.hypot(math.log(one[2] / one[0]), math.log(other[0] / other[1]))
    above = math.hypot(math.log(one[0] / one[1]), math.log(other[2] / other[0]))
    return math.exp(middle - below), math.exp(middle + above)
