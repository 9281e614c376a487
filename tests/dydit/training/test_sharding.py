"""Two processes train what one trains, each with the whole model or with its share of it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dydit import DiT, DyDiT
from dydit.training.data import InMemory
from dydit.training.recipe import Recipe
from dydit.training.trainer import Training

CASES = Path(__file__).with_name("sharding_cases.py")
STEPS = 4
STATIC = Recipe(STEPS, 4, 0, learning_rate=1e-4, ema_decay=0.5, flip=True, micro_batch=1)
DYNAMIC = dataclasses.replace(STATIC, target=0.5, complete_warmup=2, target_hold=0, target_reached=1)
RESUMED_AT = 2


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(12, 4, 8, 8, generator=generator) * 2 - 1, torch.randint(10, (12,), generator=generator)


def finished(training: Training) -> dict[str, Any]:
    states, logs = {}, []
    while training.step < training.recipe.steps:
        states[training.step] = copy.deepcopy(training.state())
        logs.append(training.advance(InMemory(*data())))
    return {"logs": logs, "states": {**states, training.step: training.state()}}


@pytest.fixture(scope="module")
def one(build: Callable[..., Any]) -> dict[str, Any]:
    """What one process leaves."""
    return {
        "dynamic": finished(Training(build(DyDiT), DYNAMIC)),
        "bf16": finished(Training(build(DyDiT), DYNAMIC, precision="bf16")),
        "static": finished(Training(build(DiT), STATIC)),
    }


@pytest.fixture(scope="module")
def limit(one: dict[str, Any]) -> float:
    """Below the gradient norm of the first step, and above that of either half of it."""
    return float(0.9 * one["dynamic"]["logs"][0].gradient_norm)


@pytest.fixture(scope="module")
def two(
    build: Callable[..., Any],
    one: dict[str, Any],
    limit: float,
    together: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """What each of two processes leaves."""
    folder, models = tmp_path_factory.mktemp("two"), [build(DiT), build(DyDiT)]
    given = {
        "config": models[0].config.kwargs(),
        "weights": {type(model).__name__: model.state_dict() for model in models},
        "dynamic": DYNAMIC,
        "static": STATIC,
        "data": data(),
        "state": one["dynamic"]["states"][RESUMED_AT],
        "limit": limit,
    }
    torch.save(given, folder / "given")
    names = {"GIVEN": str(folder / "given"), "MADE": str(folder / "made")}
    for status, error in together(f"import runpy; runpy.run_path({str(CASES)!r}, {names!r})", 2):
        assert status == 0, error
    return [torch.load(folder / f"made{rank}", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize(
    ("case", "single"),
    [
        ("replicas", "dynamic"),
        ("shares", "dynamic"),
        ("recomputed", "dynamic"),
        ("resumed", "dynamic"),
        ("static", "static"),
    ],
)
def test_two_processes_train_what_one_trains(
    one: dict[str, Any], two: list[dict[str, Any]], assert_weights_agree: Callable[..., None], case: str, single: str
) -> None:
    mine, wanted = two[0][case], one[single]
    assert two[1][case]["logs"] == mine["logs"]
    for log, expected in zip(mine["logs"], wanted["logs"][-len(mine["logs"]) :], strict=True):
        assert (log.loss, log.gradient_norm) == pytest.approx((expected.loss, expected.gradient_norm), rel=1e-5)
        assert (log.ratio, log.rates) == (pytest.approx(expected.ratio, rel=1e-6), expected.rates)
    for part in ("model", "average"):
        assert_weights_agree(mine["states"][STEPS][part], wanted["states"][STEPS][part])
    weights, final = mine["weights"], mine["states"][STEPS]
    assert all(torch.equal(weights["model"][key], value) for key, value in final["model"].items())
    assert all(torch.equal(value, final["average"][f"module.{key}"]) for key, value in weights["ema"].items())


def test_shares_in_bf16_differ_from_the_whole_by_its_rounding_alone(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    """The order in which blocks add to the gradient of the timestep embedding is another."""
    first, wanted = two[0]["bf16"]["logs"][0], one["bf16"]["logs"][0]
    assert first.loss == pytest.approx(wanted.loss, rel=1e-6) != one["dynamic"]["logs"][0].loss
    assert first.gradient_norm == pytest.approx(wanted.gradient_norm, rel=2**-9)


def test_replicas_hold_equal_states_and_shares_are_gathered_by_the_first_alone(two: list[dict[str, Any]]) -> None:
    first, second = (each["replicas"]["states"][STEPS] for each in two)
    assert all(torch.equal(first["average"][key], value) for key, value in second["average"].items())
    shares = two[1]["shares"]["states"][STEPS]["model"]
    assert {key for key, value in shares.items() if value is not None} == {"pos_embed"}


def test_each_process_holds_half_of_everything_that_grows_with_the_model(two: list[dict[str, Any]]) -> None:
    for each in two:
        for part, share in each["shares"]["held"].items():
            assert share == pytest.approx(0.5, abs=0.01), part
        assert set(each["replicas"]["held"].values()) == {1.0}


def test_a_run_of_shares_is_gone_on_with_by_one_process(
    build: Callable[..., Any], one: dict[str, Any], two: list[dict[str, Any]], assert_weights_agree: Callable[..., None]
) -> None:
    training = Training(build(DyDiT, seed=9), DYNAMIC)
    training.restore(two[0]["shares"]["states"][RESUMED_AT])
    resumed = finished(training)
    assert [log.step for log in resumed["logs"]] == [2, 3]
    assert_weights_agree(resumed["states"][STEPS]["average"], one["dynamic"]["states"][STEPS]["average"])


def test_a_step_is_skipped_by_the_norm_of_the_whole_gradient(
    two: list[dict[str, Any]], one: dict[str, Any], limit: float
) -> None:
    for each in two:
        (log,) = each["limited"]["logs"]
        assert log.skipped and log.gradient_norm > limit
    states = two[0]["limited"]["states"]
    before, after = states[0], states[1]
    assert all(torch.equal(after["model"][key], value) for key, value in before["model"].items())
    assert after["step"] == 1 and not after["optimizer"]["state"]


def test_divergence_stops_both_processes(two: list[dict[str, Any]]) -> None:
    assert [each["refusal"].split(":")[0] for each in two] == ["training diverged at step 0"] * 2
