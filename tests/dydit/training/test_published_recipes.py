"""Named recipes: the paper's table, and how the released scripts differ from it."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest

from dydit.config import PAPER_LAMBDAS, model_config
from dydit.flops import LOSS_WEIGHT
from dydit.training import published_recipes

TABLES = Path(__file__).parents[3] / "reference_stats" / "paper" / "dydit_iclr2025.csv"


def published() -> dict[str, float]:
    """Setting -> value of the paper's Table 6, as the committed transcription has it."""
    with TABLES.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row[1] == "Table 6"]
    return {row[4]: float(row[5]) for row in rows}


def test_every_published_lambda_has_a_recipe_with_the_values_of_the_paper() -> None:
    table = published()
    for size, targets in PAPER_LAMBDAS.items():
        for target in targets:
            named = published_recipes.find_recipe(f"dydit-{size.lower()}-{target}")
            recipe = named.recipe
            if size == "XL":
                steps = table[
                    "fine-tune iterations DiT-XL lambda=0.7"
                    if target == 0.7
                    else "fine-tune iterations DiT-XL other lambda"
                ]
                assert recipe.complete_warmup == table["warm-up iterations DiT-XL (0 for S and B)"]
            else:
                steps = table[f"fine-tune iterations DiT-{size}"]
                assert recipe.complete_warmup == 0
            assert (recipe.steps, recipe.target) == (steps, target)
            assert recipe.learning_rate == table["optimizer learning rate (AdamW)"]
            assert recipe.batch_size == table["global batch size"]
            assert (recipe.ema_decay, recipe.flip, recipe.flops_weight) == (0.9999, True, LOSS_WEIGHT)
            assert model_config(named.network) and named.network == f"DyDiT-{size}/2"
            assert named.ordered and recipe.micro_batches == 1 and recipe.double_steps == 0
            assert "Tables 6 and 7" in named.source and "not stated in the paper" in named.source


RELEASED_07 = {
    "learning_rate": (1e-4, 2.5e-5),
    "complete_warmup": (30_000, 150_000),
    "target_reached": (1000, 5000),
    "gradient_limit": (200.0, 50.0),
    "micro_batch": (None, 32),
}


@pytest.mark.parametrize(
    ("released", "paper", "differences", "said"),
    [
        ("released-xl-0.7", "dydit-xl-0.7", RELEASED_07, "steps once per gradient"),
        (
            "released-xl-0.7-double-step",
            "dydit-xl-0.7",
            RELEASED_07 | {"double_steps": (0, 150_000)},
            "as in the release, the optimiser steps once before",
        ),
        (
            "released-xl-0.5",
            "dydit-xl-0.5",
            {"micro_batch": (None, 32)},
            "in these 30k steps, the optimiser steps once",
        ),
    ],
)
def test_the_released_scripts_differ_from_the_paper_in_known_fields(
    released: str, paper: str, differences: dict[str, tuple[float | None, float]], said: str
) -> None:
    mine, theirs = published_recipes.find_recipe(released), published_recipes.find_recipe(paper)
    ours, papers = dataclasses.asdict(mine.recipe), dataclasses.asdict(theirs.recipe)
    assert {name: (papers[name], ours[name]) for name in papers if papers[name] != ours[name]} == differences
    assert not mine.ordered and said in mine.source


def test_names_are_keys_and_an_unknown_one_gets_the_nearest(refusal) -> None:
    assert all(name == named.name for name, named in published_recipes.RECIPES.items())
    with refusal("dydit-xl-0.55", "dydit-xl-0.5"):
        published_recipes.find_recipe("dydit-xl-0.55")
