"""What the arrays of learned routing say, in sentences with their numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.routing.learned import Floats, LearnedRouting
from bench.routing.tables import class_table, layer_table, timestep_table

SMALL = 0.005
"""Rates that differ by less are called equal in the text, and work below it hardly anything."""
SIGNIFICANT = 0.01
"""Level of the test between classes."""


@dataclass(frozen=True)
class ClassEffect:
    """How far labels explain an image's FLOPs ratio.

    `explained` is the share of the variance between images that lies between classes (eta squared), `chance` what it is
    expected to be without any effect, (K - 1) / (N - 1), and `p` the Kruskal-Wallis test's.
    """

    explained: float
    chance: float
    p: float


def class_effect(labels: NDArray[np.int64], values: Floats) -> ClassEffect | None:
    """Of values (N,), in the classes with at least two images; None where fewer than two classes, or no variance."""
    from scipy.stats import kruskal

    groups = [values[labels == label] for label in np.unique(labels)]
    groups = [group for group in groups if len(group) > 1]
    if len(groups) < 2 or np.ptp(np.concatenate(groups)) == 0:
        return None
    pooled = np.concatenate(groups)
    between = sum(len(group) * (group.mean() - pooled.mean()) ** 2 for group in groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of groups in which all values are equal
        p = float(kruskal(*groups).pvalue)
    return ClassEffect(float(between / ((pooled - pooled.mean()) ** 2).sum()), (len(groups) - 1) / (len(pooled) - 1), p)


def between_images(learned: LearnedRouting) -> float | None:
    """Share of the variance of token decisions that lies between images at one step, layer, position and branch.

    0: masks fixed ahead of time would decide alike. 1: step, layer and position say nothing. None: no token is closed,
    or none is open.
    """
    rate = learned.token_map.astype(np.float64)
    whole = rate.mean() * (1 - rate.mean())
    return float((rate * (1 - rate)).mean() / whole) if whole > 0 else None


def describe_routing(learned: LearnedRouting, record: Mapping[str, Any]) -> str:
    """A heading and one paragraph in markdown; every number in it is computed from the arrays."""
    sampling = record["sampling"]
    guidance = "without guidance" if sampling["scale"] == 1.0 else f"at guidance scale {sampling['scale']:g}"
    run = f"{len(learned.labels)} images, {sampling['steps']} steps of {sampling['sampler']} {guidance}"
    opening = (
        f"Over {run}, the masks of this {sampling['model']} leave {_rate(learned.flops_ratio.mean())} of the blocks' "
        "multiply-adds (claimed, not executed)."
    )
    parts = [opening, *_width_sentences(learned), *_token_sentences(learned), *_class_sentences(learned)]
    return f"# What routing learned: {Path(record['checkpoint']).stem}\n\n{' '.join(parts)}\n"


def _width_sentences(learned: LearnedRouting) -> list[str]:
    layers, bins = layer_table(learned), timestep_table(learned)
    parts = []
    for name, rate, is_open in (
        ("head", learned.head_rate, learned.heads_open),
        ("group", learned.channel_rate, learned.channels_open),
    ):
        what = {"head": "heads", "group": "channel groups"}[name]
        if is_open.all():
            parts.append(f"All {what} are open at every timestep: their routing is not used.")
            continue
        sentence = f"Over all {len(rate)} timesteps {_rate(rate.mean())} of the {what} are open"
        mean = layers[f"{name}_rate"].to_numpy()
        if mean.max() - mean.min() >= SMALL:
            least, most = mean.argmin(), mean.argmax()
            sentence += f", fewest in layer {least} ({_rate(mean[least])}), most in layer {most} ({_rate(mean[most])})"
        always, never = int(is_open.all(0).sum()), int((~is_open).all(0).sum())
        total = is_open[0].size
        parts.append(
            f"{sentence}; of all {total}, {always} never close, {never} never open and {total - always - never} "
            "go by the timestep."
        )
    ratio = bins["width_ratio"].to_numpy()
    if np.ptp(ratio) < SMALL:
        parts.append("Width hardly changes with the timestep.")
    else:
        widest, narrowest = (_spans(bins["timesteps"], abs(ratio - end) < SMALL) for end in (ratio.max(), ratio.min()))
        parts.append(
            f"Widths leave most of the work at timesteps {widest} ({_rate(ratio.max())}) and least at {narrowest} "
            f"({_rate(ratio.min())})."
        )
    return parts


def _spans(bins: pd.Series[str], chosen: NDArray[np.bool_]) -> str:
    """Chosen bins as text, neighbours joined: 0-99 and 100-199 are 0-199."""
    spans: list[list[str]] = []
    for label in bins[chosen][::-1]:  # ascending
        first, last = label.split("-")
        if spans and int(spans[-1][1]) + 1 == int(first):
            spans[-1][1] = last
        else:
            spans.append([first, last])
    return " and ".join("-".join(span) for span in spans)


def _token_sentences(learned: LearnedRouting) -> list[str]:
    rate = learned.token_rate
    if (rate == 1).all():
        return ["Token routing is not used: every token passes every MLP, so that all images cost the same."]
    by_branch = [f"{_rate(mean)} ({name})" for name, mean in zip(learned.branches, rate.mean((1, 2)), strict=True)]
    layers = rate.mean((0, 1))
    parts = [
        f"Of the tokens, {' and '.join(by_branch)} pass the MLP, least in layer {layers.argmin()} "
        f"({_rate(layers.min())}), most in layer {layers.argmax()} ({_rate(layers.max())})."
    ]
    saved = learned.width_ratio[learned.timesteps].mean() - learned.flops_ratio.mean()
    use = "is hardly used" if saved < SMALL else "is used"
    parts.append(f"Token routing {use}: beyond widths it saves {_rate(saved)} of the blocks' multiply-adds.")
    partly = ((rate > 0) & (rate < 1)).mean()
    parts.append(
        f"Over steps, layers and branches, all tokens of all images are open in {_rate((rate == 1).mean())} of the "
        f"cases, none in {_rate((rate == 0).mean())} and some in {_rate(partly)}."
    )
    shares = between_images(learned)
    if shares is not None:
        parts.append(
            f"{_rate(shares)} of the variance of token decisions lies between images at one step, layer and position; "
            "masks fixed ahead of time could make the rest."
        )
    if len(learned.branches) == 2:
        parts.append(f"The two branches decide differently on {_rate(learned.branches_differ.mean())} of the tokens.")
    where = learned.position_rate.mean(0)
    if np.ptp(where) >= SMALL:
        least, most = (np.unravel_index(index, where.shape) for index in (where.argmin(), where.argmax()))
        parts.append(
            f"By position the token rate runs from {_rate(where.min())} (row {least[0]}, column {least[1]}) to "
            f"{_rate(where.max())} (row {most[0]}, column {most[1]})."
        )
    return parts


def _class_sentences(learned: LearnedRouting) -> list[str]:
    table = class_table(learned)
    effect = class_effect(learned.labels, learned.image_flops_ratio.mean(1))
    if effect is None:
        return []
    several = table[table["images"] > 1].sort_values("flops_ratio")
    labels, ratio = several["label"].to_numpy(), several["flops_ratio"].to_numpy()
    verdict = "differ" if effect.p < SIGNIFICANT else "cannot be told apart"
    return [
        f"Classes {verdict} in their work (Kruskal-Wallis p = {effect.p:.2g}): from {ratio[0]:.4f} of the blocks' "
        f"multiply-adds for label {labels[0]} to {ratio[-1]:.4f} for label {labels[-1]}, and the label explains "
        f"{_rate(effect.explained)} of the variance between images ({_rate(effect.chance)} by chance)."
    ]


def _rate(value: float) -> str:
    """A share as text: exactly 0 and 1 are written as 0 % and 100 %, and nothing else is rounded to them."""
    percent = 100 * float(value)
    if percent in (0.0, 100.0):
        return f"{percent:.0f} %"
    return "< 0.1 %" if percent < 0.1 else "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"
