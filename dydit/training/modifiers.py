"""Ablations of the training: changes of a recipe or of what comes before it, where `dydit.ablations` changes networks.

Each has a name: `no-warmup`, `no-ordering`, or `flops-weight-` and a number.
"""

from __future__ import annotations

import dataclasses

from dydit.errors import InputError
from dydit.training.recipe import Recipe

NO_WARMUP = "no-warmup"
NO_ORDERING = "no-ordering"
FLOPS_WEIGHT = "flops-weight-"
"""Start of the names that set the weight of the FLOPs loss."""


def is_modifier(name: str) -> bool:
    """Whether `apply_modifier` takes a name, rather than `dydit.ablations`."""
    return name in (NO_WARMUP, NO_ORDERING) or name.startswith(FLOPS_WEIGHT)


def apply_modifier(recipe: Recipe, name: str) -> tuple[Recipe, bool]:
    """Change a recipe by the name of a modifier.

    Returns:
        The changed recipe, and whether heads and channel groups are ordered by importance before the training.

    Raises:
        InputError: no such modifier, a modifier without effect on this recipe, or a weight that is not a finite number
            of at least 0.
    """
    if name == NO_ORDERING:
        return recipe, False
    if name == NO_WARMUP:
        if recipe.complete_warmup == 0:
            raise InputError(f"ablation {name}: the recipe has no warm-up to leave out; choose one of size XL")
        return dataclasses.replace(recipe, complete_warmup=0), True
    if not name.startswith(FLOPS_WEIGHT):
        choices = f"{NO_WARMUP}, {NO_ORDERING}, {FLOPS_WEIGHT}X"
        raise InputError(f"unknown ablation of the training {name!r}; choose one of {choices}")
    try:
        weight = float(name.removeprefix(FLOPS_WEIGHT))
    except ValueError:
        weight = -1.0
    if not 0.0 <= weight < float("inf"):
        raise InputError(f"ablation {name}: its end must be a number from 0, as in {FLOPS_WEIGHT}0.5")
    return dataclasses.replace(recipe, flops_weight=weight), True
