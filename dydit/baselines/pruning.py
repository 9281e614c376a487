"""Width pruning of a static DiT: whole heads and hidden MLP channels go, and a plain, smaller DiT is left.

Of every block the same number is kept, the most important of that block, in their old order, so that the result is a
network of one `DiTConfig` that is saved, loaded and fine-tuned like any other. The width of the tokens stays: heads and
channels are what DyDiT closes, too, so that both methods choose among the same structures.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from dydit.baselines.importance import CRITERIA, Calibration, Importance
from dydit.config import DiTConfig
from dydit.dit import DiT
from dydit.errors import InputError, nearest


def prune(model: DiT, criterion: str, ratio: float, calibration: Calibration | None = None, seed: int = 0) -> DiT:
    """A smaller DiT with the most important heads and channels of `model`, in evaluation mode.

    Args:
        model: static; it is not changed.
        criterion: how importance is measured, one of `CRITERIA`.
        ratio: share of the heads, and of the channels, that go; 0 keeps all.
        calibration: images for the criteria that need gradients.
        seed: of the random criterion.

    Raises:
        InputError: an unknown criterion, a network with routers, or a ratio that leaves no head.
    """
    if criterion not in CRITERIA:
        raise InputError(f"pruning by {criterion!r}: choose one of {', '.join(nearest(criterion, CRITERIA))}")
    if type(model) is not DiT:
        raise InputError(f"pruning: a {type(model).__name__} has routers, which pruning does not know; give a DiT")
    config = pruned_config(model.config, ratio)
    importance = CRITERIA[criterion](model, calibration, seed)
    pruned = DiT(**config.kwargs()).to(model.pos_embed.device, model.pos_embed.dtype)
    pruned.load_state_dict(_kept_weights(model, config, importance))
    return pruned.eval()


def pruned_config(config: DiTConfig, ratio: float) -> DiTConfig:
    """The configuration without `ratio` of the heads and channels; channels to the next multiple of the heads.

    Raises:
        InputError: a ratio outside [0, 1), or one that leaves no head.
    """
    if not 0.0 <= ratio < 1.0:
        raise InputError(f"pruning ratio {ratio}: give a share from 0 to below 1")
    heads = round(config.num_heads * (1 - ratio))
    if heads < 1:
        most = (config.num_heads - 1) / config.num_heads
        raise InputError(f"pruning ratio {ratio}: leaves none of {config.num_heads} heads; choose at most {most:.3g}")
    if ratio == 0.0:
        return config
    channels = max(round(config.mlp_hidden * (1 - ratio) / heads), 1) * heads
    return dataclasses.replace(
        config, num_heads=heads, head_width=config.head_dim, mlp_ratio=channels / config.hidden_size
    )


def _kept_weights(model: DiT, config: DiTConfig, importance: Importance) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    for index in range(config.depth):
        heads = _largest(importance.heads[index], config.num_heads)
        _take(state, f"blocks.{index}.attn.qkv", heads, (3, model.config.num_heads), outputs=True)
        _take(state, f"blocks.{index}.attn.proj", heads, (1, model.config.num_heads), outputs=False)
        channels = _largest(importance.channels[index], config.mlp_hidden)
        _take(state, f"blocks.{index}.mlp.fc1", channels, (1, model.config.mlp_hidden), outputs=True)
        _take(state, f"blocks.{index}.mlp.fc2", channels, (1, model.config.mlp_hidden), outputs=False)
    return state


def _largest(importance: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest values, ascending; of equal ones the first."""
    return importance.argsort(descending=True, stable=True)[:count].sort().values


def _take(state: dict[str, Tensor], layer: str, kept: Tensor, groups: tuple[int, int], outputs: bool) -> None:
    """Keep some groups of a linear layer's outputs (and biases) or inputs; `groups` is how they lie, (parts, count)."""
    weight = state[f"{layer}.weight"]
    kept = kept.to(weight.device)
    if outputs:
        state[f"{layer}.weight"] = torch.unflatten(weight, 0, (*groups, -1)).index_select(1, kept).flatten(0, 2)
        state[f"{layer}.bias"] = (
            torch.unflatten(state[f"{layer}.bias"], 0, (*groups, -1)).index_select(1, kept).flatten()
        )
    else:
        state[f"{layer}.weight"] = torch.unflatten(weight, 1, (*groups, -1)).index_select(2, kept).flatten(1)
