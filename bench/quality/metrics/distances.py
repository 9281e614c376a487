"""Squared distances between features: exact ones in float64, or rounded as the ADM evaluator computes them.

`DISTANCES` names both ways. ADM's evaluator works on blocks of 10,000 x 10,000 distances, in half precision where every
distance of a block is finite and in single precision where one is not. Rounding makes distances equal that differ, and
the surface belongs to a ball: on features as long as InceptionV3's, precision and recall are some thousandths higher.
Near-duplicates, which are closer than the rounding, may then fall out of the balls around themselves: only exact
distances give equal sets a precision and recall of 1 whatever they hold. TensorFlow's order of summation is not
repeated: products and squares are summed in single precision here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.machine import track
from bench.quality.metrics.arrays import Array, pair_slices, row_slices
from dydit import InputError

EXACT, ADM = "float64", "adm-float16"
DISTANCES = (EXACT, ADM)
ADM_BLOCK = 10_000
"""Rows and columns of a block of the ADM evaluator."""
SAME_POINT = 1e-12
"""Squared distances below this share of |u|^2 + |v|^2 are rounding (float64: about 1e-15) and count as zero."""
SAME_FEATURES = 16.0
"""Features count as equal where their distance is at most so many roundings of their own data type: a network may round
differently in batches of different sizes."""
_LARGEST = float(np.finfo(np.float16).max)


class Points(Protocol):
    """A set of features that knows its distances to another set of the same kind."""

    def __len__(self) -> int: ...

    def blocks(self, other: Points, label: str) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        """Some rows of this set at a time, with their squared distances (rows, M) to all of `other`.

        Args:
            other: M features, of the same kind.
            label: of the progress bar.
        """


def prepare_points(reference: ArrayLike, samples: ArrayLike, distances: str) -> tuple[Points, Points]:
    """Both sets, ready to be compared.

    Args:
        reference: (M, D), checked to be finite.
        samples: (N, D), likewise.
        distances: one of `DISTANCES`.

    Raises:
        InputError: another name.
    """
    if distances == ADM:
        return _AdmPoints(np.asarray(reference, np.float32)), _AdmPoints(np.asarray(samples, np.float32))
    if distances != EXACT:
        raise InputError(f"distances {distances!r}; choose one of {', '.join(DISTANCES)}")
    centre = np.asarray(reference, np.float64).mean(axis=0)  # a common offset would cost digits
    unit = max(_rounding(reference), _rounding(samples))
    return _ExactPoints(reference, centre, unit), _ExactPoints(samples, centre, unit)


def count_shared(first: ArrayLike, second: ArrayLike) -> int:
    """How many of the features (N, D) are among the features (M, D), up to rounding.

    Rows that are equal up to rounding have sums that are, too, and few other rows have: only these are compared.
    """
    unit = SAME_FEATURES * max(_rounding(first), _rounding(second))
    rows, others = np.asarray(first), np.asarray(second)
    others = others[np.argsort(others.sum(axis=1, dtype=np.float64))]
    sums = others.sum(axis=1, dtype=np.float64)
    shared = 0
    for part in row_slices(len(rows)):
        block = rows[part].astype(np.float64)
        most = unit * np.linalg.norm(block, axis=1)
        centre, width = block.sum(axis=1), most * np.sqrt(block.shape[1])
        start, end = np.searchsorted(sums, centre - width), np.searchsorted(sums, centre + width, side="right")
        left = np.flatnonzero(start < end)  # rows that may equal one of the others from `start` on
        while len(left):
            equal = np.linalg.norm(block[left] - others[start[left]], axis=1) <= most[left]
            shared += int(equal.sum())
            left = left[~equal]
            start[left] += 1
            left = left[start[left] < end[left]]
    return shared


def all_equal(features: NDArray[np.floating], row: NDArray[np.floating]) -> bool:
    """Whether all features (N, D) are this row (D,), up to rounding."""
    most = SAME_FEATURES * _rounding(features) * np.linalg.norm(row)
    return bool((np.linalg.norm(features - row, axis=1) <= most).all())


def _rounding(features: ArrayLike) -> float:
    """The relative rounding of the features' data type."""
    dtype = np.asarray(features).dtype
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


class _ExactPoints:
    """Features in float64; distances between equal ones are exactly 0."""

    def __init__(self, features: ArrayLike, centre: Array, unit: float) -> None:
        rows = np.asarray(features, np.float64)
        self.rows = rows - centre
        self.norms = np.sum(self.rows**2, axis=1)
        self.same = SAME_POINT * self.norms + (SAME_FEATURES * unit) ** 2 * np.sum(rows**2, axis=1) / 2.0

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, other: Points, label: str) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        assert isinstance(other, _ExactPoints)
        for part in track(pair_slices(len(self), len(other)), label):
            size = self.norms[part, None] + other.norms
            squared: Array = (-2.0 * self.rows[part]) @ other.rows.T
            squared += size
            np.add(self.same[part, None], other.same, out=size)
            squared[squared < size] = 0.0
            yield part, squared


class _AdmPoints:
    """Features in single precision and rounded to half precision, as the ADM evaluator compares them."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows = rows
        self.norms = np.sum(rows**2, axis=1)
        with np.errstate(over="ignore"):  # what overflows makes a block that is compared in single precision
            # Values of half precision in float32: products are exact then, and sums are rounded once, as on a GPU.
            self.half_rows = rows.astype(np.float16).astype(np.float32)
            self.half_norms = np.sum((self.half_rows**2).astype(np.float16).astype(np.float32), axis=1).astype(
                np.float16
            )

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, other: Points, label: str) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        assert isinstance(other, _AdmPoints)
        columns = row_slices(len(other), ADM_BLOCK)
        parts = [
            (block, slice(block.start + part.start, block.start + part.stop))
            for block in row_slices(len(self), ADM_BLOCK)
            for part in pair_slices(block.stop - block.start, len(other))
        ]
        fits: dict[tuple[int, int], bool] = {}
        for block, part in track(parts, label):
            squared = np.empty((part.stop - part.start, len(other)), np.float32)
            for column in columns:
                key = block.start, column.start
                if key not in fits:
                    fits[key] = self._fits_half(block, other, column)
                distances = self._half if fits[key] else self._single
                squared[:, column] = distances(part, other, column)
            yield part, squared

    def _fits_half(self, block: slice, other: _AdmPoints, column: slice) -> bool:
        """Whether every distance of a block is finite in half precision."""
        longest = float(np.sqrt(self.norms[block].max()) + np.sqrt(other.norms[column].max()))
        if longest**2 < 0.9 * _LARGEST:  # no intermediate result is larger
            return True
        parts = (
            slice(block.start + part.start, block.start + part.stop) for part in row_slices(block.stop - block.start)
        )
        return all(bool(np.isfinite(self._half(part, other, column)).all()) for part in parts)

    def _half(self, part: slice, other: _AdmPoints, column: slice) -> NDArray[np.float16]:
        """|u|^2 - 2 u.v + |v|^2, every step rounded to half precision."""
        with np.errstate(over="ignore", invalid="ignore"):
            products = (self.half_rows[part] @ other.half_rows[column].T).astype(np.float16)
            squared: NDArray[np.float16] = self.half_norms[part, None] - np.float16(2.0) * products
            squared += other.half_norms[column]
            return np.maximum(squared, np.float16(0.0))

    def _single(self, part: slice, other: _AdmPoints, column: slice) -> NDArray[np.float32]:
        products = self.rows[part] @ other.rows[column].T
        squared: NDArray[np.float32] = self.norms[part, None] - 2.0 * products + other.norms[column]
        return np.maximum(squared, np.float32(0.0))
