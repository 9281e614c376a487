"""Inception Score as a stream, in float64 (ADM protocol: splits in the order of the samples)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bench.quality.metrics.arrays import Array, finite
from dydit import InputError


class ScoreMoments:
    """The Inception Score (Salimans et al. 2016) of class probabilities that come in batches, in O(classes) memory.

    Splits are consecutive runs of `split_size` rows (5,000 in the ADM protocol) in the order in which the rows come,
    whatever the batches; a shorter last one counts like the others, as in the ADM evaluator.

    With e the mean over a split of sum(p log p), and q the mean of p, the mean KL(p || q) is e - sum(q log q).
    """

    def __init__(self, classes: int, split_size: int) -> None:
        if split_size < 1 or classes < 1:
            raise InputError(f"Inception Score: {classes} classes in splits of {split_size}; both must be at least 1")
        self.classes, self.split_size = classes, split_size
        self._scores: list[float] = []
        self._rows = 0  # of the unfinished split, as are the sums
        self._probs = np.zeros(classes)
        self._entropy = 0.0

    def update(self, probs: ArrayLike) -> None:
        """Add rows (n, classes), each >= 0 and summing to 1, that follow those before.

        Raises:
            InputError: rows that are not probabilities of `classes` classes; nothing is added then.
        """
        p = probabilities(probs)
        if p.shape[1] != self.classes:
            raise InputError(f"Inception Score: rows of {p.shape[1]} and {self.classes} classes; use one extractor")
        from scipy.special import entr  # -p log p, and 0 where p is 0

        while len(p):
            part = p[: self.split_size - self._rows]
            self._probs += part.sum(axis=0)
            self._entropy += entr(part).sum()
            self._rows += len(part)
            p = p[len(part) :]
            if self._rows == self.split_size:
                self._scores.append(self._score())
                self._rows, self._probs, self._entropy = 0, np.zeros(self.classes), 0.0

    def _score(self) -> float:
        """exp(mean KL(p || q)) of the unfinished split."""
        from scipy.special import entr

        return float(np.exp(entr(self._probs / self._rows).sum() - self._entropy / self._rows))

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation over the splits so far; more rows may follow.

        Raises:
            InputError: no row yet.
        """
        scores = self._scores + ([self._score()] if self._rows else [])
        if not scores:
            raise InputError("Inception Score: 0 rows; it needs at least 1")
        return float(np.mean(scores)), float(np.std(scores))


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
