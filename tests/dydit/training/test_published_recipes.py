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
            assert "Table" in named.source


@pytest.mark.parametrize(
    ("target", "differences"),
    [
        (
            0.7,
            {
                "learning_rate": (1e-4, 2.5e-5),
                "complete_warmup": (30_000, 0),
                "target_reached": (1000, 5000),
                "gradient_limit": (200.0, 50.0),
            },
        ),
        (0.5, {}),
    ],
)
def test_the_released_scripts_differ_from_the_paper_in_known_fields(
    target: float, differences: dict[str, tuple[float, float]]
) -> None:
    paper = dataclasses.asdict(published_recipes.find_recipe(f"dydit-xl-{target}").recipe)
    released = dataclasses.asdict(published_recipes.find_recipe(f"released-xl-{target}").recipe)
    assert {name: (paper[name], released[name]) for name in paper if paper[name] != released[name]} == differences


def test_names_are_keys_and_an_unknown_one_gets_the_nearest(refusal) -> None:
    assert all(name == named.name for name, named in published_recipes.RECIPES.items())
    with refusal("dydit-xl-0.55", "dydit-xl-0.5"):
        published_recipes.find_recipe("dydit-xl-0.55")
