"""The table of a comparison: work, time, quality and drift of each method, what no other beats, notes where due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.comparison.entries import STATIC, Entry
from bench.studies.scores import METRICS

LEAST_EFFICIENCY = 0.9
"""Of speed-up over FLOPs ratio; below it a note says what took the time."""
DRIFT = ("drift_mse", "drift_psnr", "drift_fid")
SHOWN = ["method", "flops_ratio", "gap", "speedup", "FID", "drift_mse", "front_time", "front_flops", "note"]
"""The columns that people are shown."""


def methods_table(
    entries: Sequence[Entry], runs: Sequence[Mapping[str, Any]], scores: pd.DataFrame | None
) -> pd.DataFrame:
    """`methods.csv`: one row per entry, quality and drift as means over seeds with their smallest and largest value.

    Without scores it has work and time alone.

    `front_time` and `front_flops` mark what no other entry beats in FID and time, or in FID and executed multiply-adds,
    at once, by these means.
    """
    if scores is None:
        return pd.DataFrame([{**run, "note": _note(run)} for run in runs])
    rows = []
    for entry, run in zip(entries, runs, strict=True):
        own = scores[scores["method"] == entry.name]
        row = {**run, "trained": entry.trained, "seeds": len(own), "images": int(own["images"].iloc[0])}
        for metric in METRICS:
            row |= {
                metric: own[metric].mean(),
                f"{metric}_least": own[metric].min(),
                f"{metric}_most": own[metric].max(),
            }
        row |= {name: own[name].astype(float).mean() for name in DRIFT}
        rows.append(row | {"note": _note(run)})
    frame = pd.DataFrame(rows)
    frame["front_time"] = on_front(frame["ms_median"].to_numpy(), frame["FID"].to_numpy())
    frame["front_flops"] = on_front(frame["executed_gmacs"].to_numpy(), frame["FID"].to_numpy())
    return frame


def on_front(costs: Any, qualities: Any) -> list[bool]:
    """Whether no other point is at least as low in both and lower in one, for each point."""
    costs, qualities = np.asarray(costs), np.asarray(qualities)
    front = []
    for cost, quality in zip(costs, qualities, strict=True):
        beaten = (costs <= cost) & (qualities <= quality) & ((costs < cost) | (qualities < quality))
        front.append(not bool(beaten.any()))
    return front


def _note(run: Mapping[str, Any]) -> str:
    """Why the speed-up is below what the multiply-adds promise, as far as the measured parts tell."""
    if run["method"] == STATIC or run["efficiency"] >= LEAST_EFFICIENCY:
        return ""
    share = run["sampler_ms"] / run["ms_median"]
    return (
        f"speed-up {run['speedup']:.2f} of {1 / run['flops_ratio']:.2f} by multiply-adds: {share:.0%} of the run is "
        f"sampler, guidance and noise; the network alone is {run['network_speedup']:.2f} times faster"
    )
