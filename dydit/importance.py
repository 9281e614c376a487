"""Order of attention heads and MLP channel groups before fine-tuning (DyDiT paper, Section 3.2).

Head 0 and group 0 can never be switched off, so the most important ones go first. Importance is weight magnitude.
The network's function does not change: heads commute, and so do hidden channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dydit.dit import Attention, DiT, Mlp


@torch.no_grad()
def order_by_importance(model: DiT) -> None:
    """Sort, in place, the heads and the hidden MLP channels of every block by descending weight magnitude."""
    for block in model.blocks:
        _order_heads(block.attn)  # type: ignore[arg-type]
        _order_channels(block.mlp)  # type: ignore[arg-type]


def _order_heads(attention: Attention) -> None:
    heads = attention.heads
    qkv, proj = attention.qkv, attention.proj
    rows = qkv.weight.reshape(3, heads, -1, qkv.in_features)  # (3, H, C/H, C)
    columns = proj.weight.reshape(proj.out_features, heads, -1)  # (C, H, C/H)
    order = _descending(rows.square().sum((0, 2, 3)) + columns.square().sum((0, 2)))
    qkv.weight.copy_(rows[:, order].flatten(0, 2))
    qkv.bias.copy_(qkv.bias.reshape(3, heads, -1)[:, order].flatten())
    proj.weight.copy_(columns[:, order].flatten(1))


def _order_channels(mlp: Mlp) -> None:
    order = _descending(mlp.fc1.weight.square().sum(1) + mlp.fc2.weight.square().sum(0))
    mlp.fc1.weight.copy_(mlp.fc1.weight[order])
    mlp.fc1.bias.copy_(mlp.fc1.bias[order])
    mlp.fc2.weight.copy_(mlp.fc2.weight[:, order])


def _descending(importance: Tensor) -> Tensor:
    return importance.argsort(descending=True, stable=True)
