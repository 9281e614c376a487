"""Routers of DyDiT (paper, Section 3): timestep-wise dynamic width (TDW) and spatial-wise dynamic tokens (SDT).

A *channel group* is one of H equal, contiguous parts of the MLP's hidden channels, opened or closed as a whole. Where
masks or rates are meant, `channels` stands for channel groups, as `heads` stands for attention heads; the parameters of
their router are called `mlp_rate` in the published checkpoints.

Shape letters: N images, L blocks, T tokens, C hidden size, H heads (and channel groups, of which there are as many).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TAU = 5.0
"""Temperature of the Gumbel-sigmoid."""
WIDTH_BIAS = 15.0
TOKEN_BIAS = 35.0
"""Initial router biases: everything open, so that DyDiT starts as the complete DiT."""


def gumbel_sigmoid(logits: Tensor, training: bool, tau: float = TAU) -> Tensor:
    """Binary gate of the same shape and dtype as `logits`, values 0 and 1.

    Training draws Gumbel noise and passes the gradient of the soft gate straight through;
    evaluation is deterministic: open where sigmoid(logit) > 0.5. A logit that is NaN gives a gate that is NaN, so that
    it reaches the output and is seen there, and does not pass for a closed gate.
    """
    if not training:
        share = torch.sigmoid(logits)
        return torch.where(share > 0.5, 1.0, 0.0 * share)
    # At least float32: half precision has too few uniform values, and 1 - s + s would not be 1 there.
    real = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # g1 - g2 of two standard Gumbel variables is one logistic variable.
    uniform = torch.rand_like(real).clamp(1e-7, 1 - 1e-7)
    soft = torch.sigmoid((real + uniform.log() - (-uniform).log1p()) / tau)
    return ((soft > 0.5).to(real.dtype) - soft.detach() + soft).to(logits.dtype)


class WidthRouter(nn.Module):
    """TDW router: timestep embedding (N, C) -> mask (N, H); the first head or group is always on."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, heads - 1)

    def forward(self, t_emb: Tensor) -> Tensor:
        gate = self.gate(self.router(t_emb))
        return torch.cat([gate.new_ones(len(gate), 1), gate], dim=1)

    def gate(self, logits: Tensor) -> Tensor:
        return gumbel_sigmoid(logits, self.training)

    def reset(self) -> None:
        """Open every head."""
        nn.init.constant_(self.router.bias, WIDTH_BIAS)


class TokenRouter(nn.Module):
    """SDT router: tokens (N, T, C) -> mask (N, T); a closed token bypasses the MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp_head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.mlp_head(x).squeeze(-1))

    def gate(self, logits: Tensor) -> Tensor:
        return gumbel_sigmoid(logits, self.training)

    def reset(self) -> None:
        """Open every token."""
        nn.init.constant_(self.mlp_head[2].bias, TOKEN_BIAS)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Routing:
    """What every router of a forward pass decided: masks of 0 and 1 in any dtype.

    heads (N, L, H), channels (N, L, H) of the channel groups, tokens (N, L, T). In training they carry gradients.
    """

    heads: Tensor
    channels: Tensor
    tokens: Tensor

    @classmethod
    def stack(cls, layers: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Routing:
        """From one (head, channel, token) mask triple per block."""
        heads, channels, tokens = (torch.stack(masks, dim=1) for masks in zip(*layers, strict=True))
        return cls(heads, channels, tokens)

    def layer(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Masks (N, H), (N, H), (N, T) of one block."""
        return self.heads[:, index], self.channels[:, index], self.tokens[:, index]

    @property
    def head_rate(self) -> Tensor:
        """Open share of heads, (N, L)."""
        return self.heads.float().mean(-1)

    @property
    def channel_rate(self) -> Tensor:
        """Open share of MLP channel groups, (N, L)."""
        return self.channels.float().mean(-1)

    @property
    def token_rate(self) -> Tensor:
        """Share of tokens that pass the MLP, (N, L)."""
        return self.tokens.float().mean(-1)

    @property
    def query_rate(self) -> Tensor:
        """Share of tokens whose queries attention computes, (N, L): all, since DyDiT skips tokens only in the MLP."""
        return torch.ones_like(self.head_rate)

    @property
    def rates(self) -> tuple[float, float, float]:
        """Overall rates of heads, channel groups and tokens.

        The third is such that the product of the last two is the remaining share of the MLPs' work.
        """
        channels = self.channel_rate.mean().item()
        return self.head_rate.mean().item(), channels, (self.channel_rate * self.token_rate).mean().item() / channels

    @classmethod
    def random(
        cls,
        shape: tuple[int, int, int, int],
        rates: tuple[float, float, float],
        generator: torch.Generator | None = None,
        shared: bool = True,
    ) -> Routing:
        """Random masks at overall rates that are the same in every block.

        Head 0 and channel group 0 stay on; tokens are drawn for each image.

        Args:
            shape: images, blocks, heads and tokens (N, L, H, T).
            rates: of heads, channel groups and tokens, each in (0, 1].
            generator: source of the random numbers; torch's global one by default.
            shared: whether all images share the masks of heads and channel groups, as images of one timestep do.
        """
        images, blocks, heads, tokens = shape

        def widths(rate: float) -> Tensor:
            drawn = torch.rand(1 if shared else images, blocks, heads, generator=generator)
            mask = drawn < (rate * heads - 1) / max(heads - 1, 1)
            mask[..., 0] = True
            return mask.float().expand(images, -1, -1)

        chosen = torch.rand(images, blocks, tokens, generator=generator) < rates[2]
        return cls(widths(rates[0]), widths(rates[1]), chosen.float())

    def shuffled(self, generator: torch.Generator | None = None) -> Routing:
        """The same rates in random places: the control for what the routers learned.

        Heads and channel groups 1 to H - 1 are permuted per block, alike for all images, so that one timestep still has
        one width; tokens are permuted per image and block. Head 0 and channel group 0 stay on.
        """

        def permute(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
            scores = torch.rand(shape, generator=generator).to(mask.device)
            return mask.gather(-1, scores.argsort(-1).expand_as(mask))

        blocks, heads = self.heads.shape[1:]
        widths = [
            torch.cat([mask[..., :1], permute(mask[..., 1:], (1, blocks, heads - 1))], dim=-1)
            for mask in (self.heads, self.channels)
        ]
        return type(self)(widths[0], widths[1], permute(self.tokens, tuple(self.tokens.shape)))
