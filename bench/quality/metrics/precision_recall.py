"""Improved precision and recall (Kynkäänniemi et al. 2019), with the ADM evaluator's k = 3 by default."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.quality.metrics.arrays import feature_pair
from bench.quality.metrics.distances import EXACT, Points, prepare_points
from dydit import InputError


class Memberships(NamedTuple):
    """Which points of each set lie within the other set's balls; precision and recall are their shares.

    `generated` is bool (N,): generated points inside the reference's balls. `reference` is bool (M,): the reverse.
    """

    generated: NDArray[np.bool_]
    reference: NDArray[np.bool_]


def memberships(ref_features: ArrayLike, gen_features: ArrayLike, k: int = 3, distances: str = EXACT) -> Memberships:
    """Points of each set inside the union of the other set's k-nearest-neighbour balls.

    Each point's ball reaches to its k-th nearest neighbour in its own set, itself not counted, and includes its
    surface.

    Args:
        ref_features: (M, D).
        gen_features: (N, D).
        k: neighbours that set the radius.
        distances: one of `bench.quality.metrics.distances.DISTANCES`.

    Raises:
        InputError: k below 1 or not below either count, another D, values that are not finite, or an unknown name of
            distances.
    """
    if k < 1:
        raise InputError(f"precision and recall: k = {k}; it must be at least 1")
    feature_pair("precision and recall", ref_features, gen_features, at_least=k + 1)
    ref, gen = prepare_points(ref_features, gen_features, distances)
    ref_radii, gen_radii = _squared_radii(ref, k), _squared_radii(gen, k)
    gen_inside, ref_inside = np.zeros(len(gen), dtype=np.bool_), np.zeros(len(ref), dtype=np.bool_)
    for rows, squared in ref.blocks(gen, "precision and recall"):
        ref_inside[rows] = (squared <= gen_radii).any(axis=1)
        gen_inside |= (squared <= ref_radii[rows, None]).any(axis=0)
    return Memberships(gen_inside, ref_inside)


def precision_recall(
    ref_features: ArrayLike, gen_features: ArrayLike, k: int = 3, distances: str = EXACT
) -> tuple[float, float]:
    """Improved precision and recall: shares of one set inside the other set's balls, see `memberships`.

    Args:
        ref_features: (M, D).
        gen_features: (N, D).
        k: neighbours that set the radius.
        distances: one of `bench.quality.metrics.distances.DISTANCES`.

    Returns:
        Precision (generated points inside the reference's balls) and recall (the reverse).

    Raises:
        InputError: as `memberships`.
    """
    inside = memberships(ref_features, gen_features, k, distances)
    return float(inside.generated.mean()), float(inside.reference.mean())


def _squared_radii(points: Points, k: int) -> NDArray[np.floating]:
    """(N,) squared distance of each point to its k-th neighbour."""
    blocks = points.blocks(points, "radii of the balls")
    # Index 0 of the sorted distances is the point itself. Copied, so that no block of distances is kept.
    return np.concatenate([np.partition(squared, k, axis=1)[:, k].copy() for _, squared in blocks])
