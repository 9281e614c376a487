"""Ablations of the training by name."""

from __future__ import annotations

import dataclasses

import pytest

from dydit.training.modifiers import apply_modifier, is_modifier
from dydit.training.published_recipes import find_recipe
from dydit.training.recipe import Recipe

XL = find_recipe("dydit-xl-0.5").recipe


@pytest.mark.parametrize(
    ("name", "changed", "ordered"),
    [
        ("no-warmup", {"complete_warmup": 0}, True),
        ("no-ordering", {}, False),
        ("flops-weight-0.5", {"flops_weight": 0.5}, True),
        ("flops-weight-0", {"flops_weight": 0.0}, True),
    ],
)
def test_an_ablation_of_the_training_changes_one_thing(name: str, changed: dict[str, float], ordered: bool) -> None:
    assert is_modifier(name)
    assert apply_modifier(XL, name) == (dataclasses.replace(XL, **changed), ordered)


@pytest.mark.parametrize("name", ["flops-weight-", "flops-weight--1", "flops-weight-nan", "flops-weight-inf", "tdw"])
def test_a_bad_ablation_of_the_training_is_refused(refusal, name: str) -> None:
    with refusal(name):
        apply_modifier(XL, name)


def test_leaving_out_a_warm_up_that_is_not_there_is_refused(refusal) -> None:
    with refusal("no warm-up"):
        apply_modifier(Recipe(steps=1, batch_size=1, seed=0, target=0.5), "no-warmup")
