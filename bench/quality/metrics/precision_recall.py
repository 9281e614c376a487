"""Improved precision and recall (Kynkäänniemi et al. 2019), with the ADM evaluator's k = 3 by default."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.machine import track
from bench.quality.metrics.arrays import Array, feature_pair, row_slices
from dydit import InputError

SAME_POINT = 1e-12
"""Squared distances below this share of |u|^2 + |v|^2 are rounding (float64: about 1e-15) and count as zero."""


class Memberships(NamedTuple):
    """Which points of each set lie within the other set's balls; precision and recall are their shares.

    `generated` is bool (N,): generated points inside the reference's balls. `reference` is bool (M,): the reverse.
    """

    generated: NDArray[np.bool_]
    reference: NDArray[np.bool_]


def memberships(ref_features: ArrayLike, gen_features: ArrayLike, k: int = 3) -> Memberships:
    """Points of each set inside the union of the other set's k-nearest-neighbour balls.

    Each point's ball reaches to its k-th nearest neighbour in its own set, itself not counted, and includes its
    surface. Squared distances in float64 are compared.

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
    centre = ref.mean(axis=0)  # distances do not change, and a common offset costs no digits
    ref, gen = ref - centre, gen - centre
    ref_radii, gen_radii = _squared_radii(ref, k), _squared_radii(gen, k)
    gen_inside, ref_inside = np.zeros(len(gen), dtype=np.bool_), np.zeros(len(ref), dtype=np.bool_)
    for rows in track(row_slices(len(gen)), "precision and recall"):
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
    for rows in track(row_slices(len(points)), "radii of the balls"):
        # Index 0 of the sorted row is the point itself.
        radii[rows] = np.partition(_squared_distances(points[rows], points), k, axis=1)[:, k]
    return radii


def _squared_distances(u: Array, v: Array) -> Array:
    """(N, M) squared distances by one matrix product, whose rounding is then removed between equal points."""
    size = np.sum(u**2, axis=1)[:, None] + np.sum(v**2, axis=1)
    squared: Array = (-2.0 * u) @ v.T
    squared += size
    size *= SAME_POINT
    squared[squared < size] = 0.0
    return squared
