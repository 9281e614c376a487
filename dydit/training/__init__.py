"""A model, data and a recipe enter; trained weights leave (paper, Section 3.4).

Uses the modules of dydit itself alone.
"""

from dydit.training.batch import Data, Draws, InMemory, mirrored, seeded, stratified_timesteps
from dydit.training.loss import Measured, step_loss
from dydit.training.published_recipes import (
    FLOPS_WEIGHT,
    MODIFIERS,
    NO_ORDERING,
    NO_WARMUP,
    RECIPES,
    NamedRecipe,
    find_recipe,
    is_modifier,
    modified,
)
from dydit.training.recipe import PRECISIONS, Rates, Recipe, StepLog
from dydit.training.sharding import gathered, share_out, shared_as, sum_over_processes, whole
from dydit.training.trainer import Training, train

__all__ = [
    "FLOPS_WEIGHT",
    "MODIFIERS",
    "NO_ORDERING",
    "NO_WARMUP",
    "PRECISIONS",
    "RECIPES",
    "Data",
    "Draws",
    "InMemory",
    "Measured",
    "NamedRecipe",
    "Rates",
    "Recipe",
    "StepLog",
    "Training",
    "find_recipe",
    "gathered",
    "is_modifier",
    "mirrored",
    "modified",
    "seeded",
    "share_out",
    "shared_as",
    "step_loss",
    "stratified_timesteps",
    "sum_over_processes",
    "train",
    "whole",
]
