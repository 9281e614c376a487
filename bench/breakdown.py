"""Where the time of a forward goes: the engine's named parts, static and dynamic side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

PARTS = (
    "embedding",
    "modulation",
    "norm",
    "qkv",
    "attention",
    "proj",
    "token routing",
    "gather",
    "MLP",
    "scatter",
    "final layer",
)
REPEATS = 5


def measure(calls: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, dict[str, float]]:
    """Mean ms of one call by part, and of the whole under `forward`, for each named call; calls take turns."""
    totals: dict[str, dict[str, float]] = {name: dict.fromkeys((*PARTS, "forward"), 0.0) for name in calls}
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    for call in calls.values():
        call()
    for _ in range(REPEATS):
        for name, call in calls.items():
            with profile(activities=activities) as watched, torch.profiler.record_function("forward"):
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            for event in watched.key_averages():
                if event.key in totals[name]:
                    spent = event.device_time_total if device.type == "cuda" else event.cpu_time_total
                    totals[name][event.key] += spent / 1e3 / REPEATS
    return totals


def table(
    parts: Mapping[str, dict[str, float]], labels: Mapping[str, dict[str, Any]], ideal: Mapping[str, float]
) -> pd.DataFrame:
    """One row per call and part: ms, share, the static ms, and `lost_ms`, what it takes beyond its FLOPs' share.

    `ideal` is the executed FLOPs ratio of each call: a part that shrank as the FLOPs did loses nothing.
    """
    rows = []
    static = parts["static"]
    for name, times in parts.items():
        named = {part: times[part] for part in PARTS}
        named["rest"] = times["forward"] - sum(named.values())
        base = {part: static[part] for part in PARTS}
        base["rest"] = static["forward"] - sum(base.values())
        for part, spent in named.items():
            rows.append(
                labels[name]
                | {
                    "part": part,
                    "ms": spent,
                    "share": spent / times["forward"],
                    "static_ms": base[part],
                    "lost_ms": spent - ideal[name] * base[part],
                }
            )
    return pd.DataFrame(rows)
