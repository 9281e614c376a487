"""The fine-tuning recipes of the paper (Tables 6 and 7) and of the authors' released scripts, by name.

`dydit-s-0.5` is the paper's recipe for size S/2 at lambda 0.5; `released-xl-0.5` is that of a released script.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dydit.config import PAPER_LAMBDAS
from dydit.errors import InputError, nearest
from dydit.training.recipe import Recipe

PAPER = "DyDiT paper (arXiv 2410.03456), Tables 6 and 7"
RELEASE = "the authors' release, alibaba-damo-academy/DyDiT, fine-tuning script"
UNSAID = (
    "course of the FLOPs target, stratified timesteps, gradient limit and weight of the FLOPs loss are those of the "
    "released scripts, since the paper states none"
)


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe, the network of `dydit.config` that it trains, and in words where its values come from."""

    name: str
    network: str
    recipe: Recipe
    source: str


# Table 6 and the scripts alike: lr 1e-4 without weight decay, global batch 256, EMA 0.9999, horizontal flip.
_COMMON = Recipe(steps=1, batch_size=256, seed=0, learning_rate=1e-4, ema_decay=0.9999, flip=True)
_STEPS = {"S": 50_000, "B": 100_000, "XL": 200_000}
_WARMUP = {"S": 0, "B": 0, "XL": 30_000}
_XL_07_STEPS = 150_000


def _paper(size: str, target: float) -> NamedRecipe:
    steps = _XL_07_STEPS if (size, target) == ("XL", 0.7) else _STEPS[size]
    recipe = dataclasses.replace(
        _COMMON,
        steps=steps,
        target=target,
        complete_warmup=_WARMUP[size],
        target_hold=100,
        target_reached=1000,
        gradient_limit=200.0,
    )
    return NamedRecipe(f"dydit-{size.lower()}-{target}", f"DyDiT-{size}/2", recipe, f"{PAPER}; {UNSAID}")


_RELEASED = (
    NamedRecipe(
        "released-xl-0.7",
        "DyDiT-XL/2",
        dataclasses.replace(
            _COMMON,
            steps=150_000,
            learning_rate=2.5e-5,
            target=0.7,
            # One stage: no step adds the loss of the complete model.
            complete_warmup=0,
            target_hold=100,
            target_reached=5000,
            gradient_limit=50.0,
        ),
        f"{RELEASE} for lambda 0.7: one stage (read as no warm-up), where Table 6 has 30k steps of it at lr 1e-4",
    ),
    NamedRecipe(
        "released-xl-0.5",
        "DyDiT-XL/2",
        dataclasses.replace(
            _COMMON,
            steps=200_000,
            target=0.5,
            complete_warmup=30_000,
            target_hold=100,
            target_reached=1000,
            gradient_limit=200.0,
        ),
        f"{RELEASE}s for lambda 0.5: stage one to 30k steps, stage two to 200k; its first stage calls the optimiser "
        "twice a step, once before the gradient is limited, which is not repeated here",
    ),
)

RECIPES: dict[str, NamedRecipe] = {
    named.name: named
    for named in (*(_paper(size, target) for size, targets in PAPER_LAMBDAS.items() for target in targets), *_RELEASED)
}


def find_recipe(name: str) -> NamedRecipe:
    """A recipe by its name.

    Raises:
        InputError: no such name; the nearest are offered.
    """
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}; nearest names: {', '.join(nearest(name, RECIPES))}")
    return RECIPES[name]
