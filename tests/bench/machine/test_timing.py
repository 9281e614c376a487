"""Calls take turns, and ratios are paired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch

from bench.machine import timing
from bench.machine.timing import Budget, Timed


def test_rounds_take_turns_and_the_first_call_is_apart() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = timing.in_turns(calls, Budget(seconds=0.0, least=3, most=3, warmup=1), torch.device("cpu"), "")
    assert "".join(order) == "abc" + "abc" + "abc" + "bca" + "cab"
    assert all(len(timed.rounds_ms) == 3 for timed in times.values())


def test_a_ratio_is_paired_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(0)
    drift = rng.uniform(1, 3, size=40)  # hits both alike
    slow = Timed(0.0, tuple(2 * drift * rng.uniform(0.99, 1.01, 40)))
    fast = Timed(0.0, tuple(drift * rng.uniform(0.99, 1.01, 40)))
    ratio, low, high = timing.speedup(slow, fast)
    assert low <= ratio <= high
    assert ratio == pytest.approx(2.0, abs=0.01) and high - low < 0.02


def test_progress_expects_the_rounds_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_time_ms", lambda call, device: 250.0)
    expected: list[float | None] = []

    def track(rounds: Iterable[int], label: str, total: float | None = None) -> Iterator[int]:
        expected.append(total)
        return iter(rounds)

    monkeypatch.setattr(timing, "track", track)
    for seconds, least, most in ((0.0, 3, 3), (0.01, 2, 3), (0.01, 1, 50)):
        timing.in_turns({"a": int, "b": int}, Budget(seconds, least, most), torch.device("cpu"), "")
    assert expected == [3, 2, 1]
    budget = Budget(seconds=1e3, least=5, most=7)
    timing.in_turns({"a": int, "b": int}, budget, torch.device("cpu"), "")
    assert expected[-1] == 7
