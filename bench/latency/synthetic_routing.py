"""Routing drawn to meet a published FLOPs total, where no trained weights are at hand.

Three profiles put the saving in different places; every row made from them says `synthetic routing`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dydit import DiTConfig, InputError, Routing
from dydit.flops import attention_macs, mlp_macs

PROFILES = ("even", "width-heavy", "token-heavy")
KEPT = 0.9
"""Share that the spared dimension keeps: tokens in `width-heavy`, channel groups in `token-heavy`."""


def draw_routing(config: DiTConfig, ratio: float, profile: str, batch: int, seed: int = 0) -> Routing:
    """Masks whose blocks cost `ratio` of the static ones, to rounding: heads (batch, L, H), channels, tokens.

    Attention and MLP are cut alike. `even` cuts channel groups and tokens alike; `width-heavy` keeps most tokens;
    `token-heavy` keeps most groups. Widths are the same for all images (TDW), tokens differ (SDT); blocks differ.

    Args:
        config: the network.
        ratio: block FLOPs relative to static, in (0, 1].
        profile: one of `PROFILES`.
        batch: images (rows of the network's input).
        seed: of the draw.

    Raises:
        InputError: unknown profile, or a ratio that always-on heads and groups do not allow.
    """
    if profile not in PROFILES:
        raise InputError(f"routing profile {profile!r}: choose one of {', '.join(PROFILES)}")
    generator = torch.Generator().manual_seed(seed)
    depth, heads, tokens = config.depth, config.num_heads, config.tokens
    group_share = {"even": math.sqrt(ratio), "width-heavy": ratio / KEPT, "token-heavy": max(KEPT, ratio)}[profile]
    open_heads = _counts(ratio, depth, heads, generator)
    # Whole heads and groups miss the target a little; tokens, the finest unit, take up the difference.
    attention, mlp = attention_macs(config), mlp_macs(config)
    wanted = ratio * depth * (attention + mlp) - float(open_heads.sum()) / heads * attention
    least = math.ceil(wanted / mlp * heads) / (depth * heads)  # with fewer groups, all tokens would not be enough
    open_groups = _counts(min(max(group_share, least), 1.0), depth, heads, generator)
    share = wanted / (float(open_groups.sum()) / heads * mlp)
    if not 0.0 <= share <= 1.0 + 1.0 / tokens:
        raise InputError(f"ratio {ratio:.3f} cannot be met by profile {profile} with {heads} heads; choose another")
    counts = (
        torch.full((batch, depth), min(share, 1.0) * tokens) + torch.rand(batch, depth, generator=generator)
    ).floor()
    return Routing(
        heads=_open(open_heads, heads, generator, keep_first=True).expand(batch, -1, -1),
        channels=_open(open_groups, heads, generator, keep_first=True).expand(batch, -1, -1),
        tokens=_open(counts.clamp(max=tokens), tokens, generator),
    )


def _counts(share: float, depth: int, heads: int, generator: torch.Generator) -> Tensor:
    """Open units per block (L,), at least one each, summing to round(share * L * H); blocks differ by a unit or so."""
    spread = torch.rand(depth, generator=generator) * 2 - 1
    exact = (share * heads + spread - spread.mean()).clamp(1, heads)
    counts = exact.round()
    missing = round(max(share * heads, 1.0) * depth) - int(counts.sum())
    while missing:
        step = 1 if missing > 0 else -1
        room = ((counts < heads) if step > 0 else (counts > 1)).nonzero().squeeze(1)
        chosen = room[torch.randperm(len(room), generator=generator)[: abs(missing)]]
        counts[chosen] += step
        missing -= step * len(chosen)
    return counts


def _open(counts: Tensor, size: int, generator: torch.Generator, keep_first: bool = False) -> Tensor:
    """Masks (*counts.shape, size) with that many random places open; place 0 always when `keep_first`."""
    scores = torch.rand(*counts.shape, size, generator=generator)
    if keep_first:
        scores[..., 0] = -1.0
    return scores.argsort(-1).argsort(-1) < counts[..., None]
