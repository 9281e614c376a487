"""FLOPs in closed form, under masks or not, and the FLOPs loss (DyDiT paper, Section 3.4).

Unit: multiply-adds (MACs) of one image's forward pass, which this literature calls FLOPs. Guidance doubles them,
and counting a multiply-add as two operations doubles them again; neither is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dydit.config import DiTConfig, check_lambda
from dydit.routing import Routing

LOSS_WEIGHT = 2.0
"""Weight of the FLOPs loss in the authors' release (the paper states none)."""

TIMESTEP_FEATURES = 256

GIGA = 1e9
"""The papers print multiply-adds in units of 10^9."""


@dataclass(frozen=True)
class Convention:
    """Which operations, beside the matrix products of a block, a printed total counts."""

    name: str
    layer_norm: int
    """Cost of LayerNorm per element."""
    meaning: str
    attention: bool = True
    """Whether attention's two products are counted."""
    timestep_mlp: bool = True
    """Whether the MLP that embeds the timestep is counted."""


MATMUL = Convention("matmul", 0, "matrix products and convolution only")
DIT_PAPER = Convention("dit-paper", 1, "LayerNorm at 1 per element, without the timestep MLP", timestep_mlp=False)
DYDIT_PAPER = Convention("dydit-paper", 4, "fvcore with attention unfused: LayerNorm at 4 per element")
FUSED_BLIND = Convention(
    "fused-blind", 4, "fvcore on fused attention, which it skips without an error", attention=False
)
CONVENTIONS = (MATMUL, DIT_PAPER, DYDIT_PAPER, FUSED_BLIND)


@dataclass(frozen=True)
class Macs:
    """MACs of one image by operator; the fields are floats so that mask ratios scale them."""

    patch_embed: float
    timestep_mlp: float
    modulation: float
    qkv: float
    scores_and_values: float
    proj: float
    mlp: float
    final: float
    routers: float
    layer_norm_elements: float

    def total(self, convention: Convention = MATMUL) -> float:
        """Sum under a convention."""
        total = self.patch_embed + self.modulation + self.qkv + self.proj + self.mlp + self.final + self.routers
        total += self.timestep_mlp if convention.timestep_mlp else 0
        total += self.scores_and_values if convention.attention else 0
        return total + convention.layer_norm * self.layer_norm_elements


class Shares(NamedTuple):
    """Shares of the complete model's work that remain under masks."""

    keys: float
    """Of keys and values: the head ratio a."""
    queries: float
    """Of queries, attention's two products and projection: a times the share of tokens whose queries are computed.

    DyDiT computes them all; an ablation skips some.
    """
    mlp: float
    """m * s: channel groups x tokens."""
    tokens: float
    """The token ratio s."""
    layers: float
    """Attention layers with any open head: all, in DyDiT, whose head 0 is always on."""


def attention_macs(config: DiTConfig) -> int:
    """4 T C^2 + 2 T^2 C of one block's attention: projections, scores and values.

    Where heads were pruned away, one factor C of each product is the width of those that are left.
    """
    tokens, width, inner = config.tokens, config.hidden_size, config.attention_width
    return 4 * tokens * width * inner + 2 * tokens**2 * inner


def query_macs(config: DiTConfig) -> int:
    """The part of `attention_macs` that is saved where a token's query is not computed: 2 T C^2 + 2 T^2 C.

    These are the queries, the scores, the weighted values and the output projection. The rest, 2 T C^2, makes the keys
    and values, which all remaining queries need from every token.
    """
    tokens, width, inner = config.tokens, config.hidden_size, config.attention_width
    return 2 * tokens * width * inner + 2 * tokens**2 * inner


def mlp_macs(config: DiTConfig) -> int:
    """8 T C^2 (at MLP ratio 4) of one block's MLP."""
    return 2 * config.tokens * config.hidden_size * config.mlp_hidden


def block_macs(config: DiTConfig) -> int:
    """MACs of attention and MLP in all blocks: what masks can skip, and what lambda is a ratio of."""
    return config.depth * (attention_macs(config) + mlp_macs(config))


def width_router_macs(config: DiTConfig) -> int:
    """The two TDW routers of all blocks; they run on the timestep embedding alone."""
    return config.depth * 2 * config.hidden_size * (config.num_heads - 1)


def token_router_macs(config: DiTConfig) -> int:
    """The SDT routers of all blocks; they run on every token."""
    return config.depth * config.tokens * (config.hidden_size + 1) * config.token_router_hidden


def macs(config: DiTConfig, routing: Routing | None = None, dynamic: bool = False) -> Macs:
    """MACs of a DiT, or with `dynamic` of a DyDiT including its routers.

    With `routing` the skippable work is scaled by the masks (mean over the batch): this is what the masks *claim*.
    A masked forward executes the complete model instead.
    """
    tokens, width, depth = config.tokens, config.hidden_size, config.depth
    work = shares(routing) if routing is not None else Shares(1.0, 1.0, 1.0, 1.0, 1.0)
    inner = config.attention_width
    projection = tokens * width * inner * depth
    patch = config.patch_size**2
    return Macs(
        patch_embed=tokens * width * config.in_channels * patch,
        timestep_mlp=TIMESTEP_FEATURES * width + width**2,
        modulation=depth * 6 * width**2 + 2 * width**2,
        qkv=projection * (2 * work.keys + work.queries),
        scores_and_values=2 * tokens**2 * inner * depth * work.queries,
        proj=projection * work.queries,
        mlp=mlp_macs(config) * depth * work.mlp,
        final=tokens * width * config.out_channels * patch,
        routers=width_router_macs(config) + token_router_macs(config) if dynamic or routing is not None else 0,
        layer_norm_elements=tokens * width * (depth * (work.layers + work.tokens) + 1),
    )


def shares(routing: Routing) -> Shares:
    """The remaining shares of work, means over images and blocks."""
    heads, tokens, layers = routing.head_rate, routing.token_rate, (routing.heads > 0).any(-1).float()
    rates = (heads, heads * routing.query_rate, routing.channel_rate * tokens, tokens, layers)
    return Shares(*(rate.mean().item() for rate in rates))


def target_macs(config: DiTConfig, target: float, convention: Convention = MATMUL) -> float:
    """Total of a DyDiT whose blocks meet `target` exactly: the unskippable part, routers, and target x the blocks.

    Raises:
        InputError: target outside (0, 1].
    """
    check_lambda(target)
    return macs(config, dynamic=True).total(convention) - (1 - target) * block_macs(config)


def implied_ratio(config: DiTConfig, total: float, convention: Convention = DYDIT_PAPER) -> float:
    """The block ratio at which a DyDiT of this configuration costs `total` MACs: `target_macs` the other way round."""
    return 1 - (macs(config, dynamic=True).total(convention) - total) / block_macs(config)


def flops_ratio(routing: Routing, config: DiTConfig) -> Tensor:
    """r = sum_l [a_l F_attn + m_l s_l F_mlp] / sum_l [F_attn + F_mlp] of every image, (N,); differentiable.

    In the numerator, F_attn leaves out the queries that the routing skips (an ablation; DyDiT skips none).
    """
    attn, mlp = attention_macs(config), mlp_macs(config)
    attended = attn - (1 - routing.query_rate) * query_macs(config)
    per_block = routing.head_rate * attended + routing.channel_rate * routing.token_rate * mlp
    return per_block.sum(-1) / (config.depth * (attn + mlp))


def flops_loss(routing: Routing, config: DiTConfig, target: float, weight: float = LOSS_WEIGHT) -> Tensor:
    """weight * (batch mean of the ratio - target)^2, a scalar.

    Raises:
        InputError: target outside (0, 1].
    """
    ratio: Tensor = flops_ratio(routing, config).mean()
    return weight * torch.square(ratio - check_lambda(target))
