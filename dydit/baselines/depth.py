"""Depth: layers taken out (TinyFusion: Fang et al. 2025, arXiv 2412.01199), or skipped by a schedule over steps.

Which layers go is given as a list; TinyFusion learns it, and then fine-tunes the shallower network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from dydit.baselines.method import RunBlock, Walk
from dydit.config import DiTConfig
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError


def remove_layers(model: DiT, layers: Sequence[int]) -> DiT:
    """The network without these layers, counted from 0: a plain one of less depth, in evaluation mode.

    Raises:
        InputError: a layer that the network has not, all of its layers, or an ablation.
    """
    if type(model) not in (DiT, DyDiT):
        raise InputError(f"removing layers: a {type(model).__name__} is an ablation; give a DiT or a DyDiT")
    removed = removed_layers(model.config, layers)
    kept = [index for index in range(model.config.depth) if index not in removed]
    config = shallower_config(model.config, layers)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("blocks.")}
    for new, old in enumerate(kept):
        state |= {f"blocks.{new}.{key}": value for key, value in model.blocks[old].state_dict().items()}
    shallower = type(model)(**config.kwargs()).to(model.pos_embed.device, model.pos_embed.dtype)
    shallower.load_state_dict(state)
    return shallower.eval()


def shallower_config(config: DiTConfig, layers: Sequence[int]) -> DiTConfig:
    """The configuration without these layers.

    Raises:
        InputError: as `remove_layers`.
    """
    removed = removed_layers(config, layers)
    if len(removed) == config.depth:
        raise InputError(f"layers {_list(layers)}: these are all {config.depth}; leave at least one")
    return dataclasses.replace(config, depth=config.depth - len(removed))


def removed_layers(config: DiTConfig, layers: Sequence[int]) -> set[int]:
    """The layers of a list.

    Raises:
        InputError: one that the network has not.
    """
    if wrong := [layer for layer in layers if not 0 <= layer < config.depth]:
        raise InputError(f"layer {wrong[0]}: the network has {config.depth}, counted from 0 to {config.depth - 1}")
    return set(layers)


class SkippedBlocks(Walk):
    """Blocks that are skipped: at step k of a run those of `schedule[k mod its length]`, which may be none."""

    stateful = True

    def __init__(self, schedule: Sequence[Sequence[int]]) -> None:
        if not schedule:
            raise InputError("skipping layers: the schedule is empty; give the layers of at least one step, or none")
        self.schedule = [frozenset(layers) for layers in schedule]

    def check(self, config: DiTConfig) -> None:
        for layers in self.schedule:
            removed_layers(config, sorted(layers))

    def __call__(self, position: int, depth: int, hidden: Tensor, run_block: RunBlock) -> None:
        skipped = self.schedule[position % len(self.schedule)]
        for index in range(depth):
            if index not in skipped:
                run_block(index)

    def blocks_run(self, config: DiTConfig, steps: int) -> float:
        return config.depth - sum(len(self.schedule[step % len(self.schedule)]) for step in range(steps)) / steps


def _list(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
