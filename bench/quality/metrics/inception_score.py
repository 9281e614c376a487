"""Inception Score as a stream, in float64 (ADM protocol: splits in the order of the samples)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.quality.metrics.arrays import Array, finite
from dydit import InputError


class ScoreMoments:
    """The Inception Score (Salimans et al. 2016) of class probabilities that come in batches.

    Splits are consecutive runs of `split_size` rows (5,000 in the ADM protocol) in the order in which the rows come,
    whatever the batches, or in another order; the last one may be shorter. Memory is O(splits x classes).

    With e the mean over a split of sum(p log p), and q the mean of p, the mean KL(p || q) is e - sum(q log q).
    """

    def __init__(self, classes: int, split_size: int, order: NDArray[np.int64] | None = None) -> None:
        """Start without rows.

        Args:
            classes: length of a row.
            split_size: rows of a split.
            order: at which position each row counts, from 0, for the rows in the order in which they will come; by
                default in that order.

        Raises:
            InputError: no class, or splits without rows.
        """
        if split_size < 1 or classes < 1:
            raise InputError(f"Inception Score: {classes} classes in splits of {split_size}; both must be at least 1")
        self.classes, self.split_size, self.order = classes, split_size, order
        self._count = 0
        self._splits: list[_Split] = []

    def update(self, probs: ArrayLike) -> None:
        """Add rows (n, classes), each >= 0 and summing to 1, that follow those before.

        Raises:
            InputError: rows that are not probabilities of `classes` classes; nothing is added then.
        """
        p = probabilities(probs)
        if p.shape[1] != self.classes:
            raise InputError(f"Inception Score: rows of {p.shape[1]} and {self.classes} classes; use one extractor")
        positions = np.arange(self._count, self._count + len(p))
        numbers = (positions if self.order is None else self.order[positions]) // self.split_size
        for number in np.unique(numbers):
            while len(self._splits) <= number:
                self._splits.append(_Split(self.classes))
            self._splits[number].add(p[numbers == number])
        self._count += len(p)

    def splits(self) -> list[SplitScore]:
        """Every split that has rows so far, with its score; more rows may follow."""
        return [SplitScore(split.count, split.score()) for split in self._splits if split.count]

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation over the splits so far; a shorter last one counts like the others, as in ADM.

        Raises:
            InputError: no row yet.
        """
        scores = [split.score for split in self.splits()]
        if not scores:
            raise InputError("Inception Score: 0 rows; it needs at least 1")
        return float(np.mean(scores)), float(np.std(scores))

    def whole(self) -> float:
        """The score of all rows as one split, which does not depend on their order; at least one row is needed."""
        whole = _Split(self.classes)
        for split in self._splits:
            whole.merge(split)
        return whole.score()


class SplitScore(NamedTuple):
    """One split: how many rows it has, and its score."""

    rows: int
    score: float


class _Split:
    """Sums over the rows of one split."""

    def __init__(self, classes: int) -> None:
        self.count = 0
        self.probs = np.zeros(classes)
        self.entropy = 0.0

    def add(self, rows: Array) -> None:
        from scipy.special import entr  # -p log p, and 0 where p is 0

        self.count += len(rows)
        self.probs += rows.sum(axis=0)
        self.entropy += entr(rows).sum()

    def merge(self, other: _Split) -> None:
        self.count += other.count
        self.probs += other.probs
        self.entropy += other.entropy

    def score(self) -> float:
        """exp(mean KL(p || q))."""
        from scipy.special import entr

        return float(np.exp(entr(self.probs / self.count).sum() - self.entropy / self.count))


def inception_score(probs: ArrayLike, split_size: int) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))), of rows that are all in memory.

    Args:
        probs: class probabilities (N, classes), rows summing to 1.
        split_size: rows per split, see `ScoreMoments`.

    Raises:
        InputError: rows that are not probabilities, or no row, or a split size below 1.
    """
    p = probabilities(probs)
    moments = ScoreMoments(p.shape[1], split_size)
    moments.update(p)
    return moments.score()


def probabilities(values: ArrayLike) -> Array:
    """Rows of class probabilities (n, classes) as float64.

    Raises:
        InputError: rows that are not, each >= 0 and summing to 1 within 1e-3.
    """
    p = finite("probabilities", values, 2)
    if len(p) and (p.min(initial=0.0) < 0.0 or np.abs(p.sum(axis=1) - 1.0).max() > 1e-3):
        raise InputError("Inception Score: rows are not probabilities (each >= 0, summing to 1); apply softmax first")
    return p
