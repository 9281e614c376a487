"""A recipe's FLOPs target, and values that are refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dydit.training.recipe import Recipe


@pytest.mark.parametrize(
    ("step", "target"),
    [(0, 1.0), (99, 1.0), (100, 0.95), (500, 0.75), (999, 0.5005), (1000, 0.5), (1001, 0.5), (10**6, 0.5)],
)
def test_the_target_is_held_then_jumps_onto_a_ramp_from_step_0_then_stays(step: int, target: float) -> None:
    recipe = Recipe(steps=1, batch_size=1, seed=0, target=0.5)
    assert recipe.target_at(step) == pytest.approx(target, abs=1e-12)


@given(target=st.floats(0.01, 1.0), hold=st.integers(0, 500), fall=st.integers(1, 500), step=st.integers(0, 2000))
@settings(max_examples=50, deadline=None)
def test_the_target_never_rises_and_stays_between_lambda_and_one(
    target: float, hold: int, fall: int, step: int
) -> None:
    recipe = Recipe(steps=1, batch_size=1, seed=0, target=target, target_hold=hold, target_reached=hold + fall)
    now, then = recipe.target_at(step), recipe.target_at(step + 1)
    assert target - 1e-12 <= then <= now <= 1.0


def test_a_static_recipe_has_target_one() -> None:
    assert Recipe(steps=1, batch_size=1, seed=0).target_at(10**6) == 1.0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"target": 0.0}, "lambda = 0.0"),
        ({"target": 1.5}, "lambda = 1.5"),
        ({"target": math.nan}, "lambda = nan"),
        ({"steps": 0}, "steps = 0"),
        ({"batch_size": -1}, "batch_size = -1"),
        ({"micro_batch": 0}, "micro_batch = 0"),
        ({"micro_batch": 3}, "batch_size 4 is not a multiple of micro_batch 3"),
        ({"target_hold": 5, "target_reached": 5}, "target_hold 5"),
        ({"ema_decay": 1.5}, "ema_decay = 1.5"),
        ({"ema_decay": math.nan}, "ema_decay = nan"),
        ({"gradient_limit": math.nan}, "gradient_limit = nan"),
        ({"complete_warmup": -5}, "complete_warmup = -5"),
        ({"target_hold": -5}, "target_hold = -5"),
        ({"flops_weight": math.inf}, "flops_weight = inf"),
    ],
)
def test_a_recipe_out_of_range_is_refused(refusal, change: dict[str, float], part: str) -> None:
    recipe = {"steps": 3, "batch_size": 4, "seed": 0, "target": 0.5}
    with refusal(part):
        Recipe(**(recipe | change))
