"""Every network of the two papers counted three ways on the meta device, which needs no memory for weights.

Unit: multiply-adds (MACs) of one image's forward pass, which the papers call FLOPs; 10^9 of them are 1 G.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from bench.flops.counters import Count, Inputs, fvcore_count, torch_count
from bench.machine import track
from dydit import PAPER_LAMBDAS, PATCH_SIZES, Convention, DiT, DiTConfig, DyDiT, Macs, macs, model_config
from dydit.flops import DYDIT_PAPER, FUSED_BLIND, MATMUL

MODELS: tuple[tuple[str, int], ...] = (
    *((f"DiT-{size}/{patch}", 256) for size in ("S", "B", "L", "XL") for patch in reversed(PATCH_SIZES)),
    ("DiT-XL/2", 512),
    *((f"DyDiT-{size}/2", 256) for size in PAPER_LAMBDAS),
)
"""Networks and resolutions with a FLOPs row in one of the papers."""


@dataclass(frozen=True)
class NetworkCount:
    """What three counters say of one network, for a batch of one image on the meta device.

    Args:
        model: its name.
        resolution: side of the images in pixels.
        config: its shape.
        parameters: number of trained ones.
        position_table: elements of the fixed sine/cosine table, which is not among the trained parameters.
        fvcore: MACs by fvcore, with a formula for fused attention.
        fvcore_unmodified: MACs by fvcore as it is published, which skips fused attention.
        torch: MACs by torch's counter.
    """

    model: str
    resolution: int
    config: DiTConfig
    parameters: int
    position_table: int
    fvcore: Count
    fvcore_unmodified: Count
    torch: Count

    @property
    def dynamic(self) -> bool:
        return self.model.startswith("DyDiT")

    @property
    def closed_form(self) -> Macs:
        """All of the work, routers included: what a masked forward executes."""
        return macs(self.config, dynamic=self.dynamic)

    @property
    def counted(self) -> tuple[tuple[str, Convention, Count], ...]:
        """The library counts, each with the convention that it follows."""
        return (
            ("fvcore", DYDIT_PAPER, self.fvcore),
            ("fvcore unmodified", FUSED_BLIND, self.fvcore_unmodified),
            ("torch", MATMUL, self.torch),
        )

    def agreeing(self, convention: Convention) -> tuple[str, ...]:
        """Counters whose total in this convention is the closed form's, to the last MAC."""
        total = self.closed_form.total(convention)
        same = (name for name, own, count in self.counted if own == convention and count.total == total)
        return ("closed form", *same)


def count_network(model: str, resolution: int = 256) -> NetworkCount:
    """Count a named network three ways; needs no memory for its weights.

    Raises:
        InputError: unknown name, or a resolution that its patches do not divide.
        UnknownOperator: a counter met an operator that it has no formula for.
    """
    config = model_config(model, resolution)
    with torch.device("meta"):
        network = (DyDiT if model.startswith("DyDiT") else DiT)(**config.kwargs()).eval()
    inputs = meta_inputs(config)
    return NetworkCount(
        model=model,
        resolution=resolution,
        config=config,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        position_table=network.pos_embed.numel(),
        fvcore=fvcore_count(network, inputs),
        fvcore_unmodified=fvcore_count(network, inputs, unmodified=True),
        torch=torch_count(network, inputs),
    )


def count_networks(models: Iterable[tuple[str, int]] = MODELS) -> tuple[NetworkCount, ...]:
    """Count networks, each a (name, resolution); every name is checked before the first is counted.

    Raises:
        InputError: as `count_network`.
    """
    models = tuple(models)
    for model, resolution in models:
        model_config(model, resolution)
    return tuple(count_network(*model) for model in track(models, "counting FLOPs"))


def at_printed_resolutions(models: Iterable[str]) -> list[tuple[str, int]]:
    """(name, resolution) for every resolution that the papers print of each name; 256 for a name that they do not."""
    return [
        pair
        for model in dict.fromkeys(models)
        for pair in [pair for pair in MODELS if pair[0] == model] or [(model, 256)]
    ]


def meta_inputs(config: DiTConfig) -> Inputs:
    """x (1, in_channels, S, S), t (1,) and y (1,) without storage."""
    with torch.device("meta"):
        index = torch.zeros(1, dtype=torch.long)
        return torch.zeros(1, config.in_channels, config.input_size, config.input_size), index, index.clone()


def executed_macs(model: Callable[..., Any], inputs: Inputs) -> float:
    """MACs of the matrix products and convolutions that ran, for the whole batch; takes any callable.

    Raises:
        UnknownOperator: an operator ran that has no formula.
    """
    return torch_count(model, inputs).total
