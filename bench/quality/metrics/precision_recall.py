"""Improved precision and recall (Kynkäänniemi et al. 2019), with the ADM evaluator's k = 3 by default."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.machine import track
from bench.quality.metrics.moments import Array, feature_pair
from dydit import InputError

SAME_POINT = 1e-12
"""Squared distances below this share of |u|^2 + |v|^2 are rounding (float64: about 1e-15) and count as zero."""
ROWS = 1024
"""Rows of a distance matrix held at once: memory is ROWS x points instead of points squared."""


class Memberships(NamedTuple):
    """Which points of each set lie within the other set's balls; precision and recall are their shares.

    `generated` is bool (N,): generated points inside the reference's balls. `reference` is bool (M,): the reverse.
    """

    generated: NDArray[np.bool_]
    reference: NDArray[np.bool_]


def memberships(ref_features: ArrayLike, gen_features: ArrayLike, k: int = 3) -> Memberships:
    """Points of each set inside the union of the other set's k-nearest-neighbour balls.

    Each point's ball reaches to its k-th nearest neighbour in its own set, itself not counted; the rim belongs to the
    ball. Squared distances in float64 are compared, as the ADM evaluator does in float32.

    Args:
        ref_features: (M, D).
        gen_features: (N, D).
        k: neighbours that set the radius.

    Raises:
        InputError: k below 1 or not below either count, another D, or values that are not finite.
    """
    if k < 1:
        raise InputError(f"precision and recall: k = {k}; it must be at least 1")
    ref, gen = feature_pair("precision and recall", ref_features, gen_features, at_least=k + 1)
    centre = ref.mean(axis=0)  # distances do not change; a common offset would only eat digits
    ref, gen = ref - centre, gen - centre
    ref_radii, gen_radii = _squared_radii(ref, k), _squared_radii(gen, k)
    gen_inside, ref_inside = np.zeros(len(gen), dtype=np.bool_), np.zeros(len(ref), dtype=np.bool_)
    for rows in track(_row_slices(gen), "precision and recall"):
        squared = _squared_distances(gen[rows], ref)
        gen_inside[rows] = (squared <= ref_radii).any(axis=1)
        ref_inside |= (squared <= gen_radii[rows, None]).any(axis=0)
    return Memberships(gen_inside, ref_inside)


def precision_recall(ref_features: ArrayLike, gen_features: ArrayLike, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: shares of one set inside the other set's balls, see `memberships`.

    Args:
        ref_features: (M, D).
        gen_features: (N, D).
        k: neighbours that set the radius.

    Returns:
        Precision (generated points inside the reference's balls) and recall (the reverse).

    Raises:
        InputError: as `memberships`.
    """
    inside = memberships(ref_features, gen_features, k)
    return float(inside.generated.mean()), float(inside.reference.mean())


def _squared_radii(points: Array, k: int) -> Array:
    """(N,) squared distance of each point to its k-th neighbour."""
    radii = np.empty(len(points))
    for rows in track(_row_slices(points), "radii of the balls"):
        # Index k of the sorted row: index 0 is the point itself.
        radii[rows] = np.partition(_squared_distances(points[rows], points), k, axis=1)[:, k]
    return radii


def _squared_distances(u: Array, v: Array) -> Array:
    """(N, M) squared distances; one matrix product, so equal points are set to exactly zero afterwards."""
    size = np.sum(u**2, axis=1)[:, None] + np.sum(v**2, axis=1)
    squared: Array = (-2.0 * u) @ v.T
    squared += size
    size *= SAME_POINT
    squared[squared < size] = 0.0
    return squared


def _row_slices(points: Array) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, len(points), ROWS)]
