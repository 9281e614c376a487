"""Ablations and controls by name (DyDiT paper, Table 3; its public reviews): class, cost and limits of each.

What only changes the training (no warm-up, no ordering, weight of the FLOPs loss) is a recipe for the network `both`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from dydit.ablations.networks import (
    LayerRouter,
    LayerSkip,
    LayerSkipOnly,
    RandomRouting,
    SdtOnly,
    SoftGated,
    TdwOnly,
    TokenSkipAttention,
)
from dydit.config import DiTConfig, check_lambda
from dydit.dydit import DyDiT, routers
from dydit.errors import InputError, nearest
from dydit.flops import Macs, flops_ratio, macs
from dydit.routing import Routing, TokenRouter


@dataclass(frozen=True)
class Ablation:
    """A network of the registry.

    Args:
        kind: its class.
        shows: the question that it answers.
        least: numbers of heads, channel groups and tokens that stay open when every router closes all it can; None
            stands for all of them.
        row: name of its row of Table 3 in `reference_stats/paper`, if it has one.
    """

    kind: type[DyDiT]
    shows: str
    least: tuple[int | None, int | None, int | None]
    row: str | None = None

    def build(self, config: DiTConfig) -> DyDiT:
        """A new model, in training mode, with every router open."""
        return self.kind(**config.kwargs())

    def router_macs(self, config: DiTConfig) -> int:
        """MACs of one image's routers in all blocks; width and layer routers run once per image, others per token."""
        total = 0
        for block in self._outline(config).blocks:
            for router in routers(block):
                weights = sum(parameter.numel() for parameter in router.parameters() if parameter.dim() == 2)
                per_token = isinstance(router, TokenRouter) and not isinstance(router, LayerRouter)
                total += weights * (config.tokens if per_token else 1)
        return total

    def macs(self, config: DiTConfig, routing: Routing) -> Macs:
        """What the masks claim, as `flops.macs`, with this network's own routers."""
        return dataclasses.replace(macs(config, routing), routers=self.router_macs(config))

    def closed_routing(self, config: DiTConfig) -> Routing:
        """The routing of one image when every router closes all it can."""
        sizes = (config.num_heads, config.num_heads, config.tokens)
        masks = [torch.arange(size) < (size if n is None else n) for size, n in zip(sizes, self.least, strict=True)]
        return self.kind.routing_type(*(mask.float().expand(1, config.depth, -1) for mask in masks))

    def check_target(self, config: DiTConfig, target: float) -> float:
        """Return a target FLOPs ratio unchanged.

        Raises:
            InputError: it lies outside (0, 1], or below what this network reaches with every router closed.
        """
        least = flops_ratio(self.closed_routing(config), config).item()
        if check_lambda(target) < least - 1e-6:
            raise InputError(
                f"lambda = {target}: {self.kind.__name__} keeps a FLOPs ratio of {least:.3f} with every router closed; "
                "choose a larger lambda"
            )
        return target

    def _outline(self, config: DiTConfig) -> DyDiT:
        with torch.device("meta"):  # shapes without memory
            return self.build(config)


ABLATIONS = {
    "both": Ablation(DyDiT, "the paper's method", (1, 1, 0), "III: TDW+SDT (full DyDiT-S lambda=0.5)"),
    "tdw-only": Ablation(TdwOnly, "what dynamic width does alone", (1, 1, None), "I: TDW only"),
    "sdt-only": Ablation(SdtOnly, "what dynamic tokens do alone", (None, None, 0), "II: SDT only"),
    "random": Ablation(RandomRouting, "whether routing must be learned", (1, 1, 0), "I with random router"),
    "layer-skip": Ablation(
        LayerSkip, "layers instead of tokens", (1, 1, 0), "III with layer-skip instead of token SDT"
    ),
    "layer-skip-only": Ablation(LayerSkipOnly, "dynamic depth, without TDW", (0, None, 0)),
    "token-skip-attention": Ablation(TokenSkipAttention, "whether attention needs every token", (1, 1, 0)),
    "soft-gated": Ablation(SoftGated, "gain by the routers' parameters, nothing skipped", (None, None, None)),
}
"""Networks by name; `both` is the plain DyDiT in the published layout."""


def find_ablation(name: str) -> Ablation:
    """An ablation by its name.

    Raises:
        InputError: no such name; the nearest are offered, with what they show.
    """
    if name not in ABLATIONS:
        offered = ", ".join(f"{known} ({ABLATIONS[known].shows})" for known in nearest(name, ABLATIONS))
        raise InputError(f"unknown ablation {name!r}; nearest names: {offered}")
    return ABLATIONS[name]
