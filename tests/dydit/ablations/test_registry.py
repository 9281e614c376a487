from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dydit import DiTConfig, DyDiT, Routing, model_config
from dydit.ablations.networks import RandomRouting, SoftGated, SoftRouting, TokenRouting
from dydit.ablations.registry import ABLATIONS, find_ablation
from dydit.dydit import is_router_key, routers
from dydit.flops import DYDIT_PAPER, MATMUL, flops_ratio, macs

H, T, C, DEPTH = 4, 16, 48, 2
CONFIG = DiTConfig(input_size=8, patch_size=2, in_channels=4, hidden_size=C, depth=DEPTH, num_heads=H, num_classes=10)
PAPER = Path(__file__).parents[3] / "reference_stats" / "paper" / "dydit_iclr2025.csv"
quick = settings(max_examples=25, deadline=None)
names = pytest.mark.parametrize("name", ABLATIONS)


def count(routing: Routing, image: int) -> tuple[int, int]:
    """MACs of one image's blocks, operator by operator as masks of 0 and 1 leave them, and elements normalised."""
    d, total, normed = C // H, 0, 0
    for block in range(DEPTH):
        tokens = int(routing.tokens[image, block].sum())
        asking = tokens if isinstance(routing, TokenRouting) else T
        heads = int(routing.heads[image, block].sum())
        groups = int(routing.channels[image, block].sum())
        for _ in range(heads):
            total += 2 * T * C * d  # keys, values
            total += asking * C * d  # queries
            total += asking * T * d + asking * T * d  # scores, values
            total += asking * d * C  # projection
        for _ in range(groups):
            total += tokens * C * (4 * C // H) + tokens * (4 * C // H) * C  # fc1, fc2
        normed += C * (tokens + (T if heads else 0))
    return total, normed


@st.composite
def constructed(draw_value: Any) -> tuple[str, Routing]:
    """A name and binary masks that its network can make."""
    name = draw_value(st.sampled_from([name for name in ABLATIONS if name != "soft-gated"]))
    generator = torch.Generator().manual_seed(draw_value(st.integers(0, 2**32)))
    share = draw_value(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    masks = []
    for size, least in zip((H, H, T), ABLATIONS[name].least, strict=True):
        mask = (torch.rand(2, DEPTH, size, generator=generator) < share).float()
        mask[..., : size if least is None else least] = 1
        masks.append(mask)
    if name == "layer-skip-only":
        masks[0] = masks[0][..., :1].expand(-1, -1, H)
    if name.startswith("layer-skip"):
        masks[2] = masks[2][..., :1].expand(-1, -1, T)
    return name, ABLATIONS[name].kind.routing_type(*masks)


@given(constructed())
@quick
def test_the_flops_ratio_of_masks_is_the_count_by_hand(case: tuple[str, Routing]) -> None:
    routing = case[1]
    whole = DEPTH * (4 * T * C * C + 2 * T * T * C + 8 * T * C * C)
    expected = [count(routing, image)[0] / whole for image in range(2)]
    assert flops_ratio(routing, CONFIG).tolist() == pytest.approx(expected, rel=1e-5)


@given(constructed())
@quick
def test_claimed_macs_are_the_count_by_hand(case: tuple[str, Routing]) -> None:
    name, routing = case
    outside = 2 * C * C + 256 * C + C * C  # final modulation, timestep MLP
    outside += T * C * 4 * 4 + T * C * 8 * 4 + DEPTH * 6 * C * C  # patches in and out, modulations
    blocks = [count(routing, image) for image in range(2)]
    work = ABLATIONS[name].macs(CONFIG, routing)
    matmul = outside + sum(total for total, _ in blocks) / 2 + ABLATIONS[name].router_macs(CONFIG)
    assert work.total(MATMUL) == pytest.approx(matmul, rel=1e-6)
    normed = sum(elements for _, elements in blocks) / 2 + T * C
    assert work.total(DYDIT_PAPER) - work.total(MATMUL) == pytest.approx(4 * normed, rel=1e-6)


@names
@torch.no_grad()
def test_router_macs_are_what_the_routers_execute(build, draw, name: str) -> None:
    model = build(ABLATIONS[name].kind)
    x, t, y = draw(model, 1)
    counter = FlopCounterMode(display=False)
    with counter:
        model(x, t, y)
        routed = counter.get_total_flops()
        model.complete(x, t, y)
        complete = counter.get_total_flops() - routed
    assert (routed - complete) / 2 == ABLATIONS[name].router_macs(model.config)


def test_the_plain_network_claims_what_it_always_did() -> None:
    for config in (CONFIG, model_config("DyDiT-XL/2")):
        ablation = ABLATIONS["both"]
        open_macs = macs(config, dynamic=True)
        assert ablation.router_macs(config) == open_macs.routers
        tokens = torch.ones(1, config.depth, config.tokens)
        routing = dataclasses.replace(ablation.closed_routing(config), tokens=tokens)
        assert ablation.macs(config, routing) == macs(config, routing)


@names
@torch.no_grad()
def test_closed_routers_leave_what_the_registry_says(build, draw, name: str) -> None:
    ablation = ABLATIONS[name]
    model = build(ablation.kind)
    for block in model.blocks:
        for router in routers(block):
            for parameter in router.parameters():
                parameter.zero_() if parameter.dim() == 2 else parameter.fill_(-100.0)
    if isinstance(model, RandomRouting):
        model.set_rates((1 / H, 1 / H, 0.0))
    routing, closed = model.route(*draw(model, 1))[1], ablation.closed_routing(model.config)
    assert type(closed) is type(routing)
    assert torch.equal(flops_ratio(closed, model.config), flops_ratio(routing, model.config))
    if not isinstance(model, SoftGated):
        for mask in ("heads", "channels", "tokens"):
            assert torch.equal(getattr(closed, mask), getattr(routing, mask))


@pytest.mark.parametrize(
    ("name", "target"),
    [("sdt-only", 0.3), ("tdw-only", 0.1), ("soft-gated", 0.9), ("token-skip-attention", 0.02), ("both", 0.03)],
)
def test_a_target_that_no_mask_reaches_is_refused(refusal, name: str, target: float) -> None:
    config = model_config("DyDiT-S/2")
    with refusal(f"lambda = {target}", ABLATIONS[name].kind.__name__, "larger lambda"):
        find_ablation(name).check_target(config, target)
    assert find_ablation(name).check_target(config, 1.0) == 1.0


def test_a_target_outside_the_unit_interval_is_refused(refusal) -> None:
    with refusal("must lie in (0, 1]"):
        find_ablation("both").check_target(CONFIG, 1.5)


def test_tokens_alone_keep_the_share_of_attention() -> None:
    config = model_config("DyDiT-XL/2")
    share = (4 * 1152 + 2 * 256) / (12 * 1152 + 2 * 256)
    closed = find_ablation("sdt-only").closed_routing(config)
    assert flops_ratio(closed, config).item() == pytest.approx(share, rel=1e-6)
    assert find_ablation("sdt-only").check_target(config, 0.36) == 0.36


def test_router_keys_by_name() -> None:
    widths = {f"blocks.{i}.{r}.router.{p}" for i in range(DEPTH) for r in ("attn_rate", "mlp_rate") for p in PARTS}
    tokens = {f"blocks.{i}.token_selection.mlp_head.{j}.{p}" for i in range(DEPTH) for j in (0, 2) for p in PARTS}
    layers = {f"blocks.{i}.attn_rate.mlp_head.{j}.{p}" for i in range(DEPTH) for j in (0, 2) for p in PARTS}
    expected = {name: widths | tokens for name in ("both", "layer-skip", "token-skip-attention", "soft-gated")}
    expected |= {"tdw-only": widths, "sdt-only": tokens, "layer-skip-only": layers | tokens, "random": {"random_rates"}}
    states = {name: ablation.build(CONFIG).state_dict() for name, ablation in ABLATIONS.items()}
    assert {name: {key for key in state if is_router_key(key)} for name, state in states.items()} == expected


PARTS = ("weight", "bias")


def test_both_is_the_published_network() -> None:
    model = find_ablation("both").build(CONFIG)
    assert type(model) is DyDiT
    assert set(model.state_dict()) == set(DyDiT(**CONFIG.kwargs()).state_dict())


@names
def test_a_new_network_is_complete_and_in_training_mode(draw, name: str) -> None:
    model = find_ablation(name).build(CONFIG)
    assert model.training and model.config == CONFIG
    assert flops_ratio(model.route(*draw(model))[1], CONFIG).tolist() == [1.0] * 3


def test_rows_of_table_3_are_published_ones() -> None:
    with PAPER.open(newline="") as file:
        published = {row["row"] for row in csv.DictReader(file) if row["table"].startswith("Table 3") and row["value"]}
    rows = {ablation.row for ablation in ABLATIONS.values()} - {None}
    assert len(rows) == 5 and rows <= published


def test_classes_and_names_are_one_to_one() -> None:
    assert len({ablation.kind for ablation in ABLATIONS.values()}) == len(ABLATIONS)
    assert find_ablation("soft-gated").kind.routing_type is SoftRouting


def test_an_unknown_name_is_refused_with_the_nearest(refusal) -> None:
    with refusal("'tdw'", "tdw-only (what dynamic width does alone)"):
        find_ablation("tdw")
    with refusal("'zzz'", "both", "tdw-only"):
        find_ablation("zzz")
