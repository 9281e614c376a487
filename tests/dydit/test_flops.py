from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dydit import DiTConfig, InputError, Routing, model_config
from dydit.flops import (
    CONVENTIONS,
    LOSS_WEIGHT,
    MATMUL,
    attention_macs,
    flops_loss,
    flops_ratio,
    macs,
    mlp_macs,
    target_macs,
)

configs = st.builds(
    lambda patch, grid, heads, width, depth: DiTConfig(
        input_size=patch * grid,
        patch_size=patch,
        in_channels=4,
        hidden_size=4 * heads * width,
        depth=depth,
        num_heads=heads,
    ),
    patch=st.sampled_from([1, 2, 4]),
    grid=st.integers(1, 4),
    heads=st.integers(1, 6),
    width=st.integers(1, 4),
    depth=st.integers(1, 4),
)


@st.composite
def routings(draw):
    """A configuration and random masks for it, head and group 0 open."""
    config = draw(configs)
    images = draw(st.integers(1, 3))
    open_share = draw(st.floats(0, 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def mask(size: int) -> torch.Tensor:
        return (torch.rand(images, config.depth, size, generator=generator) < open_share).float()

    heads, channels = mask(config.num_heads), mask(config.num_heads)
    heads[..., 0] = channels[..., 0] = 1
    return config, Routing(heads, channels, mask(config.tokens))


def all_open(config, images=1):
    def ones(size: int) -> torch.Tensor:
        return torch.ones(images, config.depth, size)

    return Routing(ones(config.num_heads), ones(config.num_heads), ones(config.tokens))


@given(routings())
def test_the_ratio_lies_in_the_unit_interval(case):
    config, routing = case
    ratio = flops_ratio(routing, config)
    assert ratio.shape == (len(routing.heads),)
    assert (ratio > 0).all() and (ratio <= 1 + 1e-6).all()


@given(routings(), st.sampled_from(["heads", "channels", "tokens"]), st.integers(0, 2**16))
def test_opening_any_gate_never_lowers_the_work(case, name, place):
    config, routing = case
    opened = getattr(routing, name).clone()
    opened.view(-1)[place % opened.numel()] = 1
    wider = dataclasses.replace(routing, **{name: opened})
    assert (flops_ratio(wider, config) >= flops_ratio(routing, config) - 1e-6).all()
    for convention in CONVENTIONS:
        assert macs(config, wider).total(convention) >= macs(config, routing).total(convention) * (1 - 1e-6)


@given(configs, st.integers(1, 3))
def test_all_open_is_the_complete_dynamic_model(config, images):
    routing = all_open(config, images)
    assert torch.allclose(flops_ratio(routing, config), torch.ones(images))
    for convention in CONVENTIONS:
        complete = macs(config, dynamic=True).total(convention)
        assert macs(config, routing).total(convention) == pytest.approx(complete, rel=1e-12)
        assert target_macs(config, 1.0, convention) == complete


@given(routings())
def test_the_batch_counts_by_its_mean(case):
    config, routing = case
    single = [
        Routing(routing.heads[i : i + 1], routing.channels[i : i + 1], routing.tokens[i : i + 1])
        for i in range(len(routing.heads))
    ]
    total = sum(macs(config, one).total() for one in single) / len(single)
    assert macs(config, routing).total() == pytest.approx(total, rel=1e-5)
    ratios = torch.cat([flops_ratio(one, config) for one in single])
    assert torch.allclose(flops_ratio(routing, config), ratios)


@given(routings())
def test_claimed_macs_and_ratio_are_one_formula(case):
    config, routing = case
    blocks = config.depth * (attention_macs(config) + mlp_macs(config))
    skipped = macs(config, dynamic=True).total() - macs(config, routing).total()
    assert 1 - skipped / blocks == pytest.approx(flops_ratio(routing, config).mean().item(), abs=1e-5)


@given(routings(), st.floats(0.01, 1))
def test_the_loss_is_the_weighted_square_of_the_gap(case, target):
    config, routing = case
    ratio = flops_ratio(routing, config).mean()
    loss = flops_loss(routing, config, target)
    assert loss.item() == pytest.approx(LOSS_WEIGHT * (ratio.item() - target) ** 2, abs=1e-6)
    met = min(max(ratio.item(), 1e-3), 1.0)
    assert flops_loss(routing, config, met).item() < 1e-5
    assert flops_loss(routing, config, target, weight=1.0).item() == pytest.approx(loss.item() / LOSS_WEIGHT, abs=1e-6)


@given(routings())
def test_the_loss_reaches_every_mask(case):
    config, routing = case
    masks = [torch.full_like(mask, 0.5, requires_grad=True) for mask in dataclasses.astuple(routing)]
    flops_loss(Routing(*masks), config, 0.1).backward()
    for mask in masks:
        assert mask.grad is not None and (mask.grad > 0).all()


@given(configs, st.floats(0.01, 0.99))
def test_target_takes_its_share_off_the_blocks(config, target):
    blocks = config.depth * (attention_macs(config) + mlp_macs(config))
    saved = macs(config, dynamic=True).total() - target_macs(config, target)
    assert saved == pytest.approx((1 - target) * blocks, rel=1e-9)


def test_block_formulas_of_the_paper():
    config = model_config("DyDiT-XL/2")
    tokens, width = 256, 1152
    assert attention_macs(config) == 4 * tokens * width**2 + 2 * tokens**2 * width
    assert mlp_macs(config) == 8 * tokens * width**2
    assert macs(config).routers == 0
    assert macs(config, dynamic=True).routers > 0


def test_conventions_differ_by_what_they_say():
    work = macs(model_config("DiT-S/2"))
    matmul, dit, dydit, blind = (work.total(convention) for convention in CONVENTIONS)
    assert matmul == work.total(MATMUL)
    assert dit - matmul == work.layer_norm_elements - work.timestep_mlp
    assert dydit - matmul == 4 * work.layer_norm_elements
    assert dydit - blind == work.scores_and_values


@pytest.mark.parametrize("target", [0.0, -0.5, 1.01, float("nan")])
def test_a_target_outside_the_unit_interval_is_refused(target):
    config = model_config("DyDiT-S/8")
    with pytest.raises(InputError, match=r"must lie in \(0, 1\]"):
        target_macs(config, target)
    with pytest.raises(InputError, match=r"must lie in \(0, 1\]"):
        flops_loss(all_open(config), config, target)
