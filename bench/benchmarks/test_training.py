"""Timed: one training step of the digits' network, static, DyDiT after warm-up, in it, and with recomputation.

`extra_info` holds how many static steps each takes, timed in turns with one: after warm-up at most 1.35 is wanted;
in it, the complete model is computed beside the dynamic one, and the step costs about two.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from bench.data import preprocessing
from bench.data.sets import digits
from bench.machine import Budget, arithmetic, in_turns, speedup
from bench.studies.catalogue import MIDDLE, SIZES
from dydit import DiT, DyDiT
from dydit.training import InMemory, Recipe, Training

BATCH = 128
STATIC = Recipe(steps=1, batch_size=BATCH, seed=0)
AFTER = dataclasses.replace(STATIC, target=0.5, target_hold=0, target_reached=1)
WARMUP = dataclasses.replace(AFTER, complete_warmup=10**9)
CASES: dict[str, tuple[type[DiT], Recipe, bool]] = {
    "static": (DiT, STATIC, False),
    "dydit": (DyDiT, AFTER, False),
    "dydit in warm-up": (DyDiT, WARMUP, False),
    "dydit, recomputing": (DyDiT, AFTER, True),
}


def training(case: str) -> Training:
    kind, recipe, recompute = CASES[case]
    return Training(kind(**SIZES[MIDDLE].kwargs()), recipe, recompute=recompute)


@pytest.mark.parametrize("case", CASES)
def test_training_step(benchmark: Any, case: str) -> None:
    data = digits.load_digits()
    rows = InMemory(preprocessing.to_model(data.images), data.labels)
    timed, static = training(case), training("static")
    benchmark.group = f"training step, digits, batch {BATCH}"
    benchmark.extra_info.update(device="cpu", dtype="fp32", threads=1)
    with arithmetic(threads=1, tf32=False):
        if not benchmark.disabled and case != "static":
            calls = {"static": lambda: static.advance(rows), case: lambda: timed.advance(rows)}
            times = in_turns(calls, Budget(seconds=8), torch.device("cpu"), case)
            benchmark.extra_info["over_static"] = speedup(times[case], times["static"])
        log = benchmark.pedantic(timed.advance, (rows,), rounds=5, warmup_rounds=1)
    assert log.loss > 0 and len(log.rates) == (0 if case == "static" else SIZES[MIDDLE].depth)
