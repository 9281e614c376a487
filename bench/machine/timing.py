"""Timing that can be believed: warmed up, synchronised, engines in turns, medians and paired ratios with a spread."""

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
    """Raw times of one call in ms: the very first one, then one a round."""

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
    """How long to measure: `least` to `most` rounds, no new one after `seconds`; `warmup` rounds go unrecorded."""

    seconds: float = 30.0
    least: int = 5
    most: int = 50
    warmup: int = 1


def in_turns(calls: Mapping[str, Call], budget: Budget, device: torch.device, label: str) -> dict[str, Timed]:
    """Time every call once a round, so that a drift of the machine hits all alike; the order turns with the round."""
    names = list(calls)
    first = {name: _once(calls[name], device) for name in names}
    for _ in range(budget.warmup):
        for name in names:
            _once(calls[name], device)
    rounds: dict[str, list[float]] = {name: [] for name in names}
    began = time.perf_counter()
    for number in track(range(budget.most), label):
        if number >= budget.least and time.perf_counter() - began > budget.seconds:
            break
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            rounds[name].append(_once(calls[name], device))
    return {name: Timed(first[name], tuple(rounds[name])) for name in names}


def speedup(base: Timed, other: Timed, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """How many times faster `other` is: median of the rounds' ratios, with a 95 % bootstrap interval over rounds."""
    ratios = np.array(base.rounds_ms) / np.array(other.rounds_ms)
    rng = np.random.default_rng(seed)
    medians = np.median(ratios[rng.integers(len(ratios), size=(resamples, len(ratios)))], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def synchronise(device: torch.device) -> None:
    """Wait for the device; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _once(call: Call, device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    call()
    synchronise(device)
    return (time.perf_counter() - began) * 1e3
