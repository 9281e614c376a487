"""Tables of what routing learned, computed from its arrays (`bench.routing.learned`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.routing.learned import LearnedRouting, arrays, meanings

BINS = 10
"""Bins of equal width over all timesteps."""


def routing_tables(learned: LearnedRouting) -> dict[str, pd.DataFrame]:
    """All tables by file name."""
    return {
        "routing_layers": layer_table(learned),
        "routing_timesteps": timestep_table(learned),
        "routing_classes": class_table(learned),
        "routing_positions": position_table(learned),
        "routing_arrays": array_table(learned),
    }


def layer_table(learned: LearnedRouting) -> pd.DataFrame:
    """One row per layer: rates over all timesteps, what is open at every or no timestep, and tokens over the run.

    `head_changes` and `group_changes` count the timesteps t > 0 with another mask than at t - 1. `mlp_work` is what
    groups and tokens together leave of the MLP's work over the run.
    """
    tokens = learned.token_rate.mean(1)
    groups_in_run = learned.channel_rate[learned.timesteps]
    frame = pd.DataFrame({"layer": np.arange(learned.head_rate.shape[1])})
    for name, rate, is_open in (
        ("head", learned.head_rate, learned.heads_open),
        ("group", learned.channel_rate, learned.channels_open),
    ):
        frame[f"{name}_rate"] = rate.mean(0)
        frame[f"{name}s_always_open"] = is_open.all(0).sum(-1)
        frame[f"{name}s_never_open"] = (~is_open).all(0).sum(-1)
        frame[f"{name}_changes"] = (is_open[1:] != is_open[:-1]).any(-1).sum(0)
    for branch, rate in zip(learned.branches, tokens, strict=True):
        frame[f"token_rate_{branch}"] = rate
    frame["mlp_work"] = (groups_in_run * learned.token_rate).mean((0, 1))
    return frame


def timestep_table(learned: LearnedRouting) -> pd.DataFrame:
    """One row per bin of timesteps, noisiest first: widths at each timestep, tokens and FLOPs at the run's steps.

    Cells are empty where the run has no step in a bin.
    """
    rows = []
    for bin_ in reversed(np.array_split(np.arange(len(learned.head_rate)), BINS)):
        inside = np.isin(learned.timesteps, bin_)
        row: dict[str, Any] = {
            "timesteps": f"{bin_[0]}-{bin_[-1]}",
            "head_rate": learned.head_rate[bin_].mean(),
            "group_rate": learned.channel_rate[bin_].mean(),
            "width_ratio": learned.width_ratio[bin_].mean(),
            "steps": int(inside.sum()),
        }
        for index, branch in enumerate(learned.branches):
            row[f"token_rate_{branch}"] = learned.token_rate[index, inside].mean() if inside.any() else np.nan
        row["flops_ratio"] = learned.flops_ratio[:, inside].mean() if inside.any() else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def class_table(learned: LearnedRouting) -> pd.DataFrame:
    """One row per label that was drawn: its images, tokens by branch, and FLOPs ratio over both with its spread.

    `flops_ratio_std` is between images (N - 1) and `flops_ratio_stderr` that of the mean; empty for a single image.
    """
    columns = {f"token_rate_{name}": learned.image_token_rate[:, i] for i, name in enumerate(learned.branches)}
    frame = pd.DataFrame({"label": learned.labels, **columns, "flops_ratio": learned.image_flops_ratio.mean(1)})
    groups = frame.groupby("label")
    table = groups.mean()
    table.insert(0, "images", groups.size())
    table["flops_ratio_std"] = groups["flops_ratio"].std()
    table["flops_ratio_stderr"] = groups["flops_ratio"].sem()
    return table.reset_index()


def position_table(learned: LearnedRouting) -> pd.DataFrame:
    """One row per token of the grid: how often it passes an MLP, mean over images, steps and layers."""
    side = learned.token_map.shape[-1]
    rows, columns = np.divmod(np.arange(side**2), side)
    frame = pd.DataFrame({"row": rows, "column": columns})
    for branch, rate in zip(learned.branches, learned.position_rate, strict=True):
        frame[f"token_rate_{branch}"] = rate.ravel()
    return frame


def array_table(learned: LearnedRouting) -> pd.DataFrame:
    """One row per array of `routing.npz`."""
    meaning = meanings()
    return pd.DataFrame(
        [
            {
                "key": name,
                "dtype": str(array.dtype),
                "shape": " x ".join(map(str, array.shape)),
                "meaning": meaning[name],
            }
            for name, array in arrays(learned).items()
        ]
    )
