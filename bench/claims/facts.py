"""Published facts of networks and recipes, which need no asset: compared with what `dydit` builds and trains by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.claims.published import PublishedValue, load_published
from bench.claims.verdict import SummaryRow, Tolerance
from dydit import PAPER_LAMBDAS, model_config
from dydit.training import find_recipe

EXACT = Tolerance.symmetric(0.0, "a setting, equal or not")

_CONFIG_FIELDS = {"layers": "depth", "heads": "num_heads", "hidden size": "hidden_size", "channel width": "hidden_size"}
"""Metric -> the field of `dydit.DiTConfig`."""
_NETWORK = re.compile(r"(?P<name>DiT-(?:XL|S|B|L))(?P<patch>/\d)?(?: pre-trained for .* iterations)?")
_RECIPES = {size: [f"dydit-{size.lower()}-{target}" for target in targets] for size, targets in PAPER_LAMBDAS.items()}
"""The paper's recipes by size; where a released script differs from the paper, its recipe is another one."""
_ALL = [name for names in _RECIPES.values() for name in names]
_RECIPE_FIELDS = {
    "optimizer learning rate (AdamW)": ("learning_rate", _ALL),
    "global batch size": ("batch_size", _ALL),
    "fine-tune iterations DiT-S": ("steps", _RECIPES["S"]),
    "fine-tune iterations DiT-B": ("steps", _RECIPES["B"]),
    "fine-tune iterations DiT-XL lambda=0.7": ("steps", ["dydit-xl-0.7"]),
    "fine-tune iterations DiT-XL other lambda": ("steps", [name for name in _RECIPES["XL"] if name != "dydit-xl-0.7"]),
    "warm-up iterations DiT-XL (0 for S and B)": ("complete_warmup", _RECIPES["XL"]),
}
"""Metric of the DyDiT paper's Table 6 -> the field of `dydit.training.Recipe`, and the recipes that must have it."""


@dataclass(frozen=True)
class Fact:
    """The value in this project that a published number is compared with, and the object whose it is."""

    value: float
    source: str


def find_fact(value: PublishedValue) -> Fact | None:
    """What a published row says of a network or a recipe, as it is in `dydit`; None where it is about something else.

    Several recipes share one row of the paper: the one that lies farthest from the published value stands for all.
    """
    if value.value is None:
        return None
    network = _NETWORK.fullmatch(value.row)
    if network is not None and value.metric in _CONFIG_FIELDS:
        name = f"{network['name']}{network['patch'] or '/2'}"  # The DyDiT paper writes no patch: all are 2.
        field = _CONFIG_FIELDS[value.metric]
        return Fact(getattr(model_config(name), field), f"dydit.config: {name}, {field}")
    if value.table == "Table 6" and value.metric in _RECIPE_FIELDS:
        field, names = _RECIPE_FIELDS[value.metric]
        published = value.value
        values = [float(getattr(find_recipe(name).recipe, field)) for name in names]
        farthest = max(values, key=lambda own: abs(own - published))
        return Fact(farthest, f"dydit.training: {', '.join(names)}, {field}")
    return None


def judge_facts(papers: tuple[str, ...], tier: str) -> list[SummaryRow]:
    """A verdict for every fact that the published tables `papers` print of a network or a recipe."""
    rows = []
    for name in papers:
        for value in load_published(name):
            fact = find_fact(value)
            if fact is not None:
                rows.append(SummaryRow.judged(value, fact.value, EXACT, tier, fact.source))
    return rows
