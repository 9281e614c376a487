"""The fine-tuning recipes of the paper (Tables 6 and 7) and of the authors' released scripts, by name.

`dydit-s-0.5` is the paper's recipe for size S/2 at lambda 0.5; `released-xl-0.5` is that of the released scripts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dydit.config import PAPER_LAMBDAS
from dydit.errors import InputError, nearest
from dydit.training.recipe import Recipe

PAPER = "DyDiT paper (arXiv 2410.03456), Tables 6 and 7"
RELEASE = "fine-tuning scripts of the authors' release, alibaba-damo-academy/DyDiT"
UNSAID = (
    "not stated in the paper and taken from the released scripts for lambda 0.5: schedule of the FLOPs target, weight "
    "of the FLOPs loss, stratified timesteps, limit of the gradient norm, update of the moving average after a skipped "
    "step; the FLOPs loss takes its mean over the whole batch, as in the paper's formula, and not over the 32 images "
    "of one process, as in the scripts"
)
SINGLE_STEP = (
    "the optimiser steps once per gradient, and only if the norm is not above the limit; the script steps once before "
    "it compares the norm with the limit, and once more if the norm is not above it"
)


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe by name.

    Args:
        name: key of `RECIPES`.
        network: name of the network in `dydit.config`.
        recipe: how it is trained.
        source: in words, where the values come from, and where they differ from there.
        ordered: whether heads and channel groups are ordered by importance before the training.
    """

    name: str
    network: str
    recipe: Recipe
    source: str
    ordered: bool = True


# Table 6 and the scripts alike: AdamW without weight decay, global batch 256, EMA 0.9999, horizontal flip.
_COMMON = Recipe(steps=1, batch_size=256, seed=0, ema_decay=0.9999, flip=True)
# The scripts for lambda 0.5. Each of their 8 processes takes the FLOPs loss of its own 32 images.
_RELEASED_05 = dataclasses.replace(
    _COMMON,
    steps=200_000,
    learning_rate=1e-4,
    target=0.5,
    complete_warmup=30_000,
    target_hold=100,
    target_reached=1000,
    gradient_limit=200.0,
    micro_batch=32,
)
_RELEASED_07 = dataclasses.replace(
    _RELEASED_05,
    steps=150_000,
    learning_rate=2.5e-5,
    target=0.7,
    complete_warmup=150_000,
    target_reached=5000,
    gradient_limit=50.0,
)

_STEPS = {"S": 50_000, "B": 100_000, "XL": 200_000}
_WARMUP = {"S": 0, "B": 0, "XL": 30_000}
_XL_07_STEPS = 150_000


def _paper(size: str, target: float) -> NamedRecipe:
    recipe = dataclasses.replace(
        _RELEASED_05,
        steps=_XL_07_STEPS if (size, target) == ("XL", 0.7) else _STEPS[size],
        learning_rate=1e-4,
        target=target,
        complete_warmup=_WARMUP[size],
        micro_batch=None,
    )
    return NamedRecipe(f"dydit-{size.lower()}-{target}", f"DyDiT-{size}/2", recipe, f"{PAPER}; {UNSAID}")


def _released(name: str, recipe: Recipe, source: str) -> NamedRecipe:
    return NamedRecipe(
        f"released-xl-{name}",
        "DyDiT-XL/2",
        recipe,
        f"{RELEASE}, {source}; heads and channel groups are not ordered by importance (the call is commented out)",
        ordered=False,
    )


_07 = (
    "lambda 0.7: the loss of the complete model is added in all 150k steps, at learning rate 2.5e-5 (Table 6: in the "
    "first 30k steps, at 1e-4)"
)

RECIPES: dict[str, NamedRecipe] = {
    named.name: named
    for named in (
        *(_paper(size, target) for size, targets in PAPER_LAMBDAS.items() for target in targets),
        _released("0.7", _RELEASED_07, f"{_07}; unlike the release in all steps, {SINGLE_STEP}"),
        _released(
            "0.7-double-step",
            dataclasses.replace(_RELEASED_07, double_steps=_RELEASED_07.steps),
            f"{_07}; as in the release, the optimiser steps once before the norm is compared with the limit, and once "
            "more by the same gradient if the norm is not above it",
        ),
        _released(
            "0.5",
            _RELEASED_05,
            "lambda 0.5: the loss of the complete model is added in the first 30k of 200k steps; unlike the release in "
            f"these 30k steps, {SINGLE_STEP}",
        ),
    )
}


def find_recipe(name: str) -> NamedRecipe:
    """A recipe by its name.

    Raises:
        InputError: no such name; the nearest are offered.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; nearest names: {', '.join(nearest(name, RECIPES))}")
    return RECIPES[name]
