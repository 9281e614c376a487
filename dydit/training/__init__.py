"""A network, data and a recipe enter; trained weights and one log entry per step leave (paper, Section 3.4).

Uses the modules of `dydit` beside it, and none of `dydit.inference`, `dydit.ablations` or `dydit.checkpoint`.
"""

from dydit.training.data import Data, InMemory, mirror_images
from dydit.training.draws import Draws
from dydit.training.modifiers import FLOPS_WEIGHT, NO_ORDERING, NO_WARMUP, apply_modifier, is_modifier
from dydit.training.published_recipes import NamedRecipe, find_recipe
from dydit.training.recipe import Recipe
from dydit.training.trainer import PRECISIONS, StepLog, Training, train

__all__ = [
    "FLOPS_WEIGHT",
    "NO_ORDERING",
    "NO_WARMUP",
    "PRECISIONS",
    "Data",
    "Draws",
    "InMemory",
    "NamedRecipe",
    "Recipe",
    "StepLog",
    "Training",
    "apply_modifier",
    "find_recipe",
    "is_modifier",
    "mirror_images",
    "train",
]
