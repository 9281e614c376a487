"""The released recipes against the released scripts, step by step, on a made-up trace of gradient norms.

What a script does at step k is written out below as plain arithmetic, from a description of the scripts, and calls
nothing of the training. The network is replaced by two scalars, a weight and a FLOPs ratio, so that loss, gradient,
Adam's update and moving average can be written out, and so that the norm of the gradient follows a trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dydit import DyDiT
from dydit.diffusion import Diffusion
from dydit.routing import Routing
from dydit.training.data import InMemory
from dydit.training.published_recipes import find_recipe
from dydit.training.trainer import Training

BATCH, PROCESSES, GROUP = 256, 8, 32
ROWS = 640
WEIGHT, RATIO = 0.5, 0.6
"""Initial values of the two scalars."""
SPREAD = 0.3 * torch.rand(ROWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
"""How much the FLOPs ratio of each row lies above the second scalar."""


@dataclass(frozen=True)
class Script:
    """What the released command for one lambda sets."""

    target: float
    learning_rate: float
    limit: float
    ramp: int
    complete_until: int
    double_until: int
    """In the first so many steps the optimiser steps once before the norm is looked at."""


SCRIPTS = {
    "released-xl-0.7": Script(0.7, 2.5e-5, 50.0, 5000, 150_000, 0),
    "released-xl-0.7-double-step": Script(0.7, 2.5e-5, 50.0, 5000, 150_000, 150_000),
    "released-xl-0.5": Script(0.5, 1e-4, 200.0, 1000, 30_000, 0),
}


def pulls(k: int, limit: float) -> tuple[float, float]:
    """Slopes of the loss of the dynamic and of the complete model: every sixth step is well above the limit."""
    size = limit * (1.4 if k % 6 == 5 else 0.3 + 0.02 * (k % 11))
    return 0.8 * size, 0.2 * size


@dataclass
class Adam:
    """One scalar, its moments and its moving average; no weight decay."""

    value: float
    average: float = field(init=False)
    first: float = 0.0
    second: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        self.average = self.value

    def update(self, gradient: float, learning_rate: float) -> None:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        root = math.sqrt(self.second / (1 - 0.999**self.count))
        self.value -= learning_rate * self.first / (1 - 0.9**self.count) / (root + 1e-8)


def replayed(script: Script, start: int, groups: list[list[Tensor]]) -> Iterator[dict[str, float]]:
    """What the script does from step `start` on; `groups` are the rows of each process at each step."""
    weight, ratio = Adam(WEIGHT), Adam(RATIO)
    for k in range(start, start + len(groups)):
        if k < 100:
            target = 1.0
        elif k < script.ramp:
            target = 1 - (1 - script.target) * k / script.ramp
        else:
            target = script.target
        dynamic, complete = pulls(k, script.limit)
        slope = dynamic + (complete if k < script.complete_until else 0.0)
        means = [ratio.value + SPREAD[rows].mean().item() for rows in groups[k - start]]
        loss = slope * weight.value + sum(2 * (mean - target) ** 2 for mean in means) / PROCESSES
        pull = sum(4 * (mean - target) for mean in means) / PROCESSES
        norm = math.hypot(slope, pull)
        updates = (1 if k < script.double_until else 0) + (1 if norm <= script.limit else 0)
        for _ in range(updates):
            weight.update(slope, script.learning_rate)
            ratio.update(pull, script.learning_rate)
        for each in (weight, ratio):
            each.average = 0.9999 * each.average + 0.0001 * each.value
        yield {
            "target": target,
            "loss": loss,
            "norm": norm,
            "ratio": sum(means) / PROCESSES,
            "skipped": updates == 0,
            "weight": weight.value,
            "router": ratio.value,
            "weight average": weight.average,
            "router average": ratio.average,
        }


class TwoScalars(DyDiT):
    """Output: a slope times the first scalar; FLOPs ratio: the second scalar plus the row's spread."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.weight = nn.Parameter(torch.tensor(WEIGHT, dtype=torch.float64))
        self.router = nn.Parameter(torch.tensor(RATIO, dtype=torch.float64))
        self.slopes = (0.0, 0.0)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def route(self, x: Tensor, t: Tensor, y: Tensor, routing: Routing | None = None) -> tuple[Tensor, Routing]:
        self.seen.append((y, t))
        rate = (self.router + SPREAD[y])[:, None, None]
        output = self.slopes[0] * self.weight.expand(len(x))
        return output, Routing(rate, rate, torch.ones_like(rate))

    def complete(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.slopes[1] * self.weight.expand(len(x))


@pytest.fixture
def training_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(name of a recipe, first step) -> its training of the two scalars, in which the output is the loss."""
    monkeypatch.setattr(Diffusion, "losses", lambda self, output, *_: SimpleNamespace(loss=output))

    def build(name: str, start: int) -> Training:
        size = {"input_size": 2, "patch_size": 2, "in_channels": 1, "hidden_size": 16, "depth": 1, "num_heads": 2}
        training = Training(TwoScalars(**size, num_classes=ROWS).double(), find_recipe(name).recipe)
        training.step = start
        return training

    return build


@pytest.mark.parametrize(
    ("name", "start", "steps"),
    [
        ("released-xl-0.7", 0, 200),
        ("released-xl-0.7", 4990, 20),
        ("released-xl-0.7", 149_980, 20),
        ("released-xl-0.7-double-step", 0, 200),
        ("released-xl-0.7-double-step", 149_980, 20),
        ("released-xl-0.5", 0, 200),
        ("released-xl-0.5", 990, 20),
        ("released-xl-0.5", 29_990, 20),
    ],
)
def test_released_recipes_are_the_released_scripts_step_by_step(training_of, name: str, start: int, steps: int) -> None:
    training, script = training_of(name, start), SCRIPTS[name]
    data = InMemory(torch.zeros(ROWS, 1, 2, 2, dtype=torch.float64), torch.arange(ROWS))
    model, average, made = training.model, training.averaged, []
    for k in range(start, start + steps):
        model.slopes = pulls(k, script.limit)
        log = training.advance(data)
        scalars = (model.weight, model.router, average.weight, average.router)
        made.append((log, [scalar.item() for scalar in scalars]))
    groups = [[rows for rows, _ in model.seen[k * PROCESSES : (k + 1) * PROCESSES]] for k in range(steps)]
    for (log, scalars), wanted in zip(made, replayed(script, start, groups), strict=True):
        names = ("weight", "router", "weight average", "router average")
        assert scalars == pytest.approx([wanted[each] for each in names], rel=0, abs=1e-9), log.step
        assert log.target == pytest.approx(wanted["target"], abs=1e-12)
        assert (log.loss, log.gradient_norm) == pytest.approx((wanted["loss"], wanted["norm"]), rel=1e-6)
        assert log.ratio == pytest.approx(wanted["ratio"], rel=1e-6)
        assert log.skipped == wanted["skipped"]
    assert {log.skipped for log, _ in made} == ({False} if script.double_until else {False, True})


def test_released_recipes_read_epochs_in_groups_of_32_with_stratified_timesteps(training_of) -> None:
    training = training_of("released-xl-0.5", 0)
    data = InMemory(torch.zeros(ROWS, 1, 2, 2, dtype=torch.float64), torch.arange(ROWS))
    for _ in range(10):  # four epochs
        training.advance(data)
    seen = training.model.seen
    assert [len(rows) for rows, _ in seen] == [GROUP] * (10 * PROCESSES)
    for epoch in torch.cat([rows for rows, _ in seen]).split(ROWS):
        assert epoch.sort().values.tolist() == list(range(ROWS))
    for _, t in seen:
        assert (t // 250).tolist() == [place % 4 for place in range(GROUP)]
