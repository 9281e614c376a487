"""Timing: calls warmed up, synchronised and run in turns; medians and paired ratios with an interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from bench.machine.progress import track

Call = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """Raw times of one call in ms: that of the very first call, then one per round."""

    first_ms: float
    rounds_ms: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.rounds_ms))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.rounds_ms, [0.25, 0.75])
        return float(low), float(high)


@dataclass(frozen=True)
class Budget:
    """How long to measure: at least `least` rounds, then more until `seconds` have passed or there are `most`.

    Before them, `warmup` rounds are run and not recorded.
    """

    seconds: float = 30.0
    least: int = 5
    most: int = 50
    warmup: int = 1


def in_turns(calls: Mapping[str, Call], budget: Budget, device: torch.device, label: str) -> dict[str, Timed]:
    """Time every call once per round, so that a drift of the machine affects all alike; each round begins with another.

    Args:
        calls: by name.
        budget: number of rounds and warm-up.
        device: on which they compute; it is synchronised before and after every call.
        label: of the progress bar.
    """
    names = list(calls)
    first = {name: _time_ms(calls[name], device) for name in names}
    round_ms = sum(first.values())
    for _ in range(budget.warmup):
        round_ms = sum(_time_ms(calls[name], device) for name in names)
    expected = min(budget.most, max(budget.least, 1 + int(budget.seconds * 1e3 / max(round_ms, 1e-3))))
    rounds: dict[str, list[float]] = {name: [] for name in names}
    began = time.perf_counter()
    for number in track(range(budget.most), label, expected):
        if number >= budget.least and time.perf_counter() - began > budget.seconds:
            break
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            rounds[name].append(_time_ms(calls[name], device))
    return {name: Timed(first[name], tuple(rounds[name])) for name in names}


def speedup(base: Timed, other: Timed, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """How many times faster `other` is than `base`: median of the rounds' ratios, and its 95 % bootstrap interval."""
    ratios = np.array(base.rounds_ms) / np.array(other.rounds_ms)
    rng = np.random.default_rng(seed)
    medians = np.median(ratios[rng.integers(len(ratios), size=(resamples, len(ratios)))], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def synchronise(device: torch.device) -> None:
    """Wait until a CUDA device has done all its work; on the CPU there is nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _time_ms(call: Call, device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    call()
    synchronise(device)
    return (time.perf_counter() - began) * 1e3
