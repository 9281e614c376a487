from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from dydit import DiT, DyDiT
from dydit.importance import order_by_importance


def head_importance(model: DiT, index: int) -> Tensor:
    attention, heads = model.blocks[index].attn, model.config.num_heads
    size = model.config.head_dim
    parts = attention.qkv.weight.chunk(3)
    return torch.stack(
        [
            sum(part[h * size : (h + 1) * size].square().sum() for part in parts)
            + attention.proj.weight[:, h * size : (h + 1) * size].square().sum()
            for h in range(heads)
        ]
    )


def channel_importance(model: DiT, index: int) -> Tensor:
    mlp = model.blocks[index].mlp
    return mlp.fc1.weight.square().sum(1) + mlp.fc2.weight.square().sum(0)


def rescaled(build, kind: type[DiT], seed: int) -> DiT:
    """A model whose heads and channels differ much in magnitude."""
    model = build(kind, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.mul_(torch.rand(layer.weight.shape[1], generator=generator) * 2)
    return model


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", [DiT, DyDiT])
@torch.no_grad()
def test_ordering_does_not_change_the_function(build, draw, kind: type[DiT], seed: int) -> None:
    model = rescaled(build, kind, seed)
    ordered = copy.deepcopy(model)
    order_by_importance(ordered)
    x, t, y = draw(model)
    complete = [m.complete(x, t, y) if isinstance(m, DyDiT) else m(x, t, y) for m in (ordered, model)]
    torch.testing.assert_close(*complete, rtol=1e-5, atol=1e-5)
    assert not torch.equal(ordered.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)
    assert not torch.equal(ordered.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)


@torch.no_grad()
def test_importance_falls_and_is_the_same_set_as_before(build) -> None:
    model = rescaled(build, DiT, 0)
    ordered = copy.deepcopy(model)
    order_by_importance(ordered)
    for index in range(model.config.depth):
        for importance in (head_importance, channel_importance):
            before, after = importance(model, index), importance(ordered, index)
            assert (after.diff() <= 0).all()
            torch.testing.assert_close(after, before.sort(descending=True).values)


@torch.no_grad()
def test_ordering_twice_changes_nothing_more(build) -> None:
    model = rescaled(build, DyDiT, 0)
    order_by_importance(model)
    once = copy.deepcopy(model.state_dict())
    order_by_importance(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, once[key])


@torch.no_grad()
def test_ordering_touches_attention_and_mlp_alone(build) -> None:
    model = rescaled(build, DyDiT, 0)
    before = copy.deepcopy(model.state_dict())
    order_by_importance(model)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    layers = (
        "attn.qkv.weight",
        "attn.qkv.bias",
        "attn.proj.weight",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
    )
    assert moved == {f"blocks.{index}.{layer}" for index in range(model.config.depth) for layer in layers}


@torch.no_grad()
def test_equal_heads_keep_their_order(build) -> None:
    model = build(DiT)
    for block in model.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            layer.weight.fill_(0.1)
    before = copy.deepcopy(model.state_dict())
    order_by_importance(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
