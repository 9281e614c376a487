"""From features to metrics: each value with its interval and a note on how it is to be read.

The definitions are in `bench.quality.metrics`; here are the protocol's choices (splits, neighbours, subsets), also for
few images.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.metrics.distances import count_shared
from bench.quality.metrics.fid_infinity import fid_infinity
from bench.quality.metrics.frechet import FidReference
from bench.quality.metrics.inception_score import ScoreMoments, SplitScore
from bench.quality.metrics.intervals import (
    bootstrap_fid,
    bootstrap_inception_score,
    bootstrap_kid,
    bootstrap_share,
    images_needed,
)
from bench.quality.metrics.kid import kid
from bench.quality.metrics.moments import Statistics
from bench.quality.metrics.precision_recall import memberships
from bench.quality.metrics.resampling import Interval
from bench.quality.settings import Resampling

ADM_SPLIT = 5000
"""Samples in a split of the Inception Score, where there are so many."""
SPLITS = 10
"""Splits of fewer samples than `ADM_SPLIT`: of a tenth of them, rounded up; the last one has the remaining samples."""
NEIGHBOURS = 3
"""k of precision and recall."""
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
"""torch-fidelity's defaults."""
_OF_SAMPLES_ALONE = ("IS", "IS_std", "IS_all")
_OF_FID = ("FID", "FID-infinity", "images_for_0.1")
_LEAST_IN_SPLIT = 5  # images: smaller splits often score alike, so that their scatter says nothing of chance
_LEAST_FOR_INFINITY = 40  # images: `fid_infinity` fits ten points with at least four each

Rows = NDArray[Any]
"""Features (n, D), float32 or float64."""


@dataclass(frozen=True)
class Value:
    """One metric: its bare name, value, 95 % interval and standard deviation under resampling (None: not measured).

    `n_reference` is the number of reference images behind it (None: there are none, or the reference does not say),
    `splits` that of the splits of the Inception Score.
    """

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    n_reference: int | None = None
    splits: int | None = None
    note: str = ""


def frechet_values(
    metric: str, statistics: Statistics, rows: Rows | None, reference: Statistics, resampling: Resampling
) -> list[Value]:
    """FID or sFID from statistics; with intervals, FID-infinity and the images that a difference of 0.1 in FID needs.

    Args:
        metric: `FID` or `sFID`.
        statistics: of the samples.
        rows: features of the samples; needed for intervals only.
        reference: statistics of the reference.
        resampling: how intervals are resampling.
    """
    side, count, n_reference = FidReference(reference), statistics.count, reference.count or None
    note = "; ".join(_poor_statistics(statistics, reference))
    value = side.distance(statistics)
    if rows is None or not resampling.resamples:
        return [_value(metric, value, None, n_reference, note=note)]
    options = {"resamples": resampling.resamples, "seed": resampling.seed}
    interval = bootstrap_fid(rows, side, **options)
    values = [_value(metric, value, interval, n_reference, note=note)]
    if metric == "FID" and count >= _LEAST_FOR_INFINITY:
        fit = fid_infinity(rows, side, **options)
        line = f"line of FID against 1/N through {len(fit.sizes)} sizes, {fit.sizes[-1]} to {count} images"
        values.append(Value("FID-infinity", fit.value, fit.low, fit.high, n_reference=n_reference, note=line))
    if metric == "FID":
        meaning = "images in each of two sets that tell a difference of 0.1 in FID from noise at 95 %"
        needed = images_needed(interval.std, count)
        values.append(Value("images_for_0.1", needed, n_reference=n_reference, note=meaning))
    return values


def _poor_statistics(statistics: Statistics, reference: Statistics) -> list[str]:
    """What makes a distance between these statistics say less than one between many different images."""
    features, notes = reference.dimensions, []
    if statistics.count <= features:
        notes.append(f"{statistics.count} images for {features} features: far above the FID of many images")
    if 0 < reference.count <= features:
        notes.append(f"the reference has {reference.count} images for {features} features")
    if reference.constant == features:
        notes.append("warning: all images of the reference have the same features")
    elif statistics.constant > reference.constant:
        notes.append(
            f"{statistics.constant} of {features} features have one value in all samples, {reference.constant} in the "
            "reference"
        )
    return notes


@dataclass(frozen=True)
class Scores:
    """Inception Scores: of every split, in the order of the samples and in a random one, and of all samples at once.

    `parts` are in random order, too: tenths of the splits where these are the protocol's, of which there may be one or
    two, and else the splits themselves. How far they scatter tells how far a split does by chance. `classes` are those
    that the extractor thinks the most probable of some sample.
    """

    ordered: tuple[SplitScore, ...]
    shuffled: tuple[SplitScore, ...]
    parts: tuple[SplitScore, ...]
    whole: float
    classes: frozenset[int]


class ScoreStream:
    """The `Scores` of samples that come in batches, as class probabilities."""

    def __init__(self, count: int, classes: int, seed: int) -> None:
        """Start without samples.

        Args:
            count: samples that will come.
            classes: of the extractor.
            seed: of the random order.
        """
        size = split_size(count)
        order = np.random.default_rng(seed).permutation(count)
        self._ordered = ScoreMoments(classes, size)
        self._shuffled = ScoreMoments(classes, size, order)
        self._parts = ScoreMoments(classes, size // SPLITS if size == ADM_SPLIT else size, order)
        self._classes: set[int] = set()

    def update(self, probs: NDArray[np.float64]) -> None:
        """Add the probabilities (n, classes) of the samples that follow those before."""
        for moments in (self._ordered, self._shuffled, self._parts):
            moments.update(probs)
        self._classes.update(probs.argmax(axis=1).tolist())

    def scores(self) -> Scores:
        """The scores of all samples, once they have come."""
        ordered, shuffled, parts = (tuple(moments.splits()) for moments in (self._ordered, self._shuffled, self._parts))
        return Scores(ordered, shuffled, parts, self._ordered.whole(), frozenset(self._classes))


def inception_score_values(scores: Scores, probs: Rows | None, resampling: Resampling) -> list[Value]:
    """Inception Score, its standard deviation over the splits, and the score of all samples at once.

    A last split of at most half the size of the others is left out of mean and standard deviation: few images lower
    the score, and it would count as much as the others.

    Args:
        scores: of the samples.
        probs: class probabilities of the samples in order; needed for the intervals only.
        resampling: how intervals are drawn.
    """
    size, last = scores.ordered[0].rows, scores.ordered[-1].rows
    counted = len(scores.ordered) - (2 * last <= size)
    ordered, shuffled = (
        np.array([split.score for split in splits[:counted]]) for splits in (scores.ordered, scores.shuffled)
    )
    notes = [f"splits of {size} in sample order"]
    if size != ADM_SPLIT:
        notes.append(f"the ADM protocol's have {ADM_SPLIT}, and small ones lower the score")
    if counted < len(scores.ordered):
        notes.append(f"the last split has {last} and is left out of the mean")
    elif last < size:
        notes.append(f"the last split has {last}")
    if len(scores.classes) == 1:
        notes.append(f"warning: to the extractor all samples are of class {min(scores.classes)}")
    if size == 1:
        notes.append("warning: a split of 1 scores 1 whatever it shows, see IS_all")
    elif size < _LEAST_IN_SPLIT:
        notes.append("too small to tell whether the order of the samples decides, see IS_all")
    elif _order_decides(ordered, shuffled, scores.parts, size):
        notes.append(
            f"warning: in random order they score {shuffled.mean():.4g}, so the order of the samples decides "
            "(sorted by class?); see IS_all"
        )
    spread = "standard deviation over the splits" if counted > 1 else "of one split, so 0 whatever it shows"
    interval = interval_of_all = None
    if probs is not None and resampling.resamples:
        options = {"resamples": resampling.resamples, "seed": resampling.seed}
        used = sum(split.rows for split in scores.ordered[:counted])
        interval = bootstrap_inception_score(probs[:used], size, **options)
        interval_of_all = bootstrap_inception_score(probs, len(probs), **options)
    return [
        _value("IS", float(ordered.mean()), interval, None, counted, "; ".join(notes)),
        Value("IS_std", float(ordered.std()), splits=counted, note=spread),
        _value("IS_all", scores.whole, interval_of_all, None, 1, "all images as one split, in any order"),
    ]


def _order_decides(
    ordered: NDArray[np.float64], shuffled: NDArray[np.float64], parts: tuple[SplitScore, ...], size: int
) -> bool:
    """Whether the splits in sample order score lower than in random order by more than chance.

    That is by more than four standard errors of the difference, and by more than 2 %. The error is that of a random
    order: sample order may scatter as widely as it likes, where a part of the samples is sorted. An order in which
    classes alternate scores higher, as all samples at once do.

    Args:
        ordered: scores of the splits in sample order.
        shuffled: of as many splits in random order.
        parts: see `Scores`.
        size: samples in a split.
    """
    whole = [part for part in parts if part.rows == parts[0].rows]
    if len(whole) < 2:
        return False
    values = np.array([part.score for part in whole])
    scatter = values.std(ddof=1) / values.mean() * np.sqrt(whole[0].rows / size)  # of a split, relative
    expected = float(shuffled.mean())
    error = float(scatter * np.sqrt(2.0 / len(shuffled))) * expected
    return expected - float(ordered.mean()) > max(4.0 * error, 0.02 * expected)


def split_size(count: int) -> int:
    """Samples in a split of the Inception Score: the protocol's 5,000, or a tenth of fewer samples, rounded up."""
    return ADM_SPLIT if count >= ADM_SPLIT else -(-count // SPLITS)


def precision_recall_values(rows: Rows, reference: Rows, distances: str, resampling: Resampling) -> list[Value]:
    """Precision and recall; the intervals are those of a share, for fixed balls of the other set.

    Args:
        rows: features of the samples.
        reference: features of the reference, of the same dtype.
        distances: one of `bench.quality.metrics.distances.DISTANCES`.
        resampling: how intervals are drawn.
    """
    inside = memberships(reference, rows, NEIGHBOURS, distances)
    note = f"k = {NEIGHBOURS}, distances in {distances}"
    values = []
    for metric, members in (("precision", inside.generated), ("recall", inside.reference)):
        interval = None
        if resampling.resamples:
            interval = bootstrap_share(members, resamples=resampling.resamples, seed=resampling.seed)
        values.append(_value(metric, float(members.mean()), interval, len(reference), note=note))
    return values


def kid_values(rows: Rows, reference: Rows, resampling: Resampling) -> list[Value]:
    """KID and its standard deviation over the subsets, which are the whole sets where these are small."""
    size = min(KID_SUBSET_SIZE, len(rows), len(reference))
    subsets = 1 if size == len(rows) == len(reference) else KID_SUBSETS  # both sets whole: every subset is the same
    mean, std = kid(rows, reference, subsets, size, resampling.seed)
    interval = None
    if resampling.resamples:
        interval = bootstrap_kid(
            rows, reference, subsets=subsets, subset_size=size, resamples=resampling.resamples, seed=resampling.seed
        )
    spread = Value("KID_std", std, n_reference=len(reference), note="standard deviation over the subsets")
    note = f"{subsets} subsets of {size}" if subsets > 1 else "both sets whole"
    return [_value("KID", mean, interval, len(reference), note=note), spread]


def warn_of_shared_images(values: list[Value], rows: Rows, reference: Rows) -> list[Value]:
    """The values, those that compare both sets with a warning where samples are among the reference images.

    Args:
        values: of these samples and this reference.
        rows: features of the samples.
        reference: features of the reference, of the same dtype.
    """
    shared = count_shared(rows, reference)
    if not shared:
        return values
    warning = (
        f"warning: {shared} of {len(rows)} samples are among the {len(reference)} reference images compared; "
        "value and interval assume independent sets"
    )
    return [value if value.metric in _OF_SAMPLES_ALONE else _noted(value, warning) for value in values]


def warn_of_equal_samples(values: list[Value], count: int) -> list[Value]:
    """The values of samples that are all alike, each with a warning.

    Args:
        values: of these samples.
        count: how many they are.
    """
    warning = (
        f"warning: all {count} samples have the same features, so that this is the value of one image repeated; look "
        "at the images, and at the extractor's weights"
    )
    return [_noted(value, warning) for value in values]


def warn_of_equal_statistics(values: list[Value], statistics: Statistics, reference: Statistics) -> list[Value]:
    """The values, the FID's with a warning where the statistics of the reference are those of the samples.

    It stands in for `warn_of_shared_images` where of the reference nothing else is known.

    Args:
        values: of these samples and this reference.
        statistics: of the samples' features.
        reference: of the reference's.
    """
    spread = float(np.trace(reference.covariance))
    equal = all(
        np.allclose(one, other, rtol=1e-6, atol=1e-6 * scale)
        for one, other, scale in (
            (statistics.mean, reference.mean, spread**0.5),
            (statistics.covariance, reference.covariance, spread),
        )
    )
    if not equal:
        return values
    warning = (
        "warning: samples and reference have the same mean and covariance, as one set of images has; value and "
        "interval assume independent sets"
    )
    return [_noted(value, warning) if value.metric in _OF_FID else value for value in values]


def _noted(value: Value, note: str) -> Value:
    return dataclasses.replace(value, note="; ".join(filter(None, [value.note, note])))


def probabilities(logits: Rows) -> NDArray[np.float64]:
    """Softmax over each row, in float64."""
    from scipy.special import softmax

    probs: NDArray[np.float64] = softmax(logits.astype(np.float64), axis=1)
    return probs


def _value(
    metric: str,
    value: float,
    interval: Interval | None,
    n_reference: int | None,
    splits: int | None = None,
    note: str = "",
) -> Value:
    low, high, std = (None, None, None) if interval is None else (*interval, interval.std)
    return Value(metric, value, low, high, std, n_reference, splits, note)
