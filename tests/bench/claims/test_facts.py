"""Facts of networks and recipes: every printed one is compared, and one that differs is seen."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from bench.claims import facts
from bench.claims.facts import find_fact, judge_facts
from bench.claims.published import PublishedValue, load_published
from dydit import PAPER_LAMBDAS, DyDiT
from dydit.training import Training
from dydit.training.published_recipes import RECIPES

PAPERS = ("dydit_iclr2025", "dit_iccv2023")
SETTINGS = ("layers", "heads", "hidden size", "channel width", "learning rate", "batch size", "iterations")


def published(row: str, metric: str) -> PublishedValue:
    (found,) = (
        v
        for name in PAPERS
        for v in load_published(name)
        if row in v.row and metric in v.metric and v.value is not None
    )
    return found


def test_every_printed_setting_is_judged_and_holds() -> None:
    rows = judge_facts(PAPERS, "smoke")
    settings = [v.claim_id for name in PAPERS for v in load_published(name) if any(s in v.metric for s in SETTINGS)]
    assert [row.claim_id for row in rows] == settings
    assert len(rows) == 52 and {row.verdict for row in rows} == {"reproduced"}
    assert {row.tier for row in rows} == {"smoke"}


@pytest.mark.parametrize(
    ("row", "metric", "value", "source"),
    [
        ("DiT-L/4", "heads", 16, "dydit.config: DiT-L/4, num_heads"),
        ("DiT-S pre-trained", "channel width", 384, "dydit.config: DiT-S/2, hidden_size"),
        ("ImageNet fine-tuning", "iterations DiT-XL lambda=0.7", 150_000, "dydit.training: dydit-xl-0.7, steps"),
        (
            "ImageNet fine-tuning",
            "other lambda",
            200_000,
            "dydit.training: dydit-xl-0.6, dydit-xl-0.5, dydit-xl-0.3, steps",
        ),
    ],
)
def test_the_evidence_names_the_object_that_was_compared(row: str, metric: str, value: float, source: str) -> None:
    fact = find_fact(published(row, metric))
    assert fact is not None
    assert (fact.value, fact.source) == (value, source)


def test_one_recipe_that_differs_from_its_table_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    named = RECIPES["dydit-b-0.4"]
    other = dataclasses.replace(named, recipe=dataclasses.replace(named.recipe, learning_rate=2e-4))
    monkeypatch.setitem(RECIPES, "dydit-b-0.4", other)
    (row,) = (row for row in judge_facts(PAPERS, "smoke") if row.verdict == "deviates")
    assert row.metric == "optimizer learning rate (AdamW)" and row.measured == 2e-4


def test_a_network_that_differs_from_its_table_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    build = facts.model_config
    monkeypatch.setattr(facts, "model_config", lambda name: dataclasses.replace(build(name), depth=13))
    deviating = [row for row in judge_facts(PAPERS, "smoke") if row.verdict == "deviates"]
    assert len(deviating) == 15 and {row.metric for row in deviating} == {"layers"}


def test_what_is_no_setting_is_left_to_others() -> None:
    fid = published("DyDiT-XL lambda=0.5", "s/image")
    assert find_fact(fid) is None
    assert find_fact(dataclasses.replace(published("DiT-L/4", "heads"), row="DiT-L/4 block=adaLN 400K")) is None
    assert find_fact(dataclasses.replace(published("DiT-L/4", "heads"), value=None)) is None


def test_the_lambdas_are_those_of_table_8() -> None:
    printed: dict[str, list[float]] = {}
    for value in load_published("dydit_iclr2025"):
        match = re.fullmatch(r"DyDiT-(\w+) lambda=([\d.]+)", value.row)
        if value.table == "Table 8" and match is not None:
            targets = printed.setdefault(match[1], [])
            targets += [float(match[2])] * (float(match[2]) not in targets)
    assert {size: sorted(targets) for size, targets in printed.items()} == {
        size: sorted(targets) for size, targets in PAPER_LAMBDAS.items()
    }


def test_the_optimiser_is_the_one_that_table_6_names() -> None:
    model = DyDiT(input_size=4, patch_size=2, in_channels=1, hidden_size=16, depth=1, num_heads=2, num_classes=2)
    recipe = RECIPES["dydit-s-0.5"].recipe
    optimizer = Training(model, recipe).optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {recipe.learning_rate}


def test_recipes_mirror_images_and_warm_up_size_xl_alone() -> None:
    """What Table 6 says beside its numbers: random flips, and no warm-up for S and B."""
    paper = {name: named.recipe for name, named in RECIPES.items() if name.startswith("dydit-")}
    assert len(paper) == 16 and all(recipe.flip for recipe in paper.values())
    assert {name for name, recipe in paper.items() if recipe.complete_warmup} == {
        name for name in paper if name.startswith("dydit-xl-")
    }
