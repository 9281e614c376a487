"""Networks with one thing changed from DyDiT, for its ablations and controls (paper, Table 3; its public reviews).

Each is a `DyDiT` whose blocks carry other routers or use them in another place. It is trained as a DyDiT is,
`dydit.flops` counts its `Routing`, it starts as the complete DiT and takes the weights of a static checkpoint through
`dydit.checkpoint.load_into`. We had the names and averages of Table 3's rows, but not the paper's text about
them: "our reading" marks what we chose ourselves.

Shape letters: N images, L blocks, T tokens, C hidden size, H heads (and channel groups, of which there are as many).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dydit.config import DiTConfig
from dydit.dit import modulate
from dydit.dydit import DyDiT, DyDiTBlock, Masks
from dydit.errors import InputError
from dydit.routing import Routing, TokenRouter, WidthRouter

TIMESTEPS = 1000


class OpenWidths(nn.Module):
    """In place of a TDW router: every head or channel group is on, (N, C) -> (N, H) of ones."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, t_emb: Tensor) -> Tensor:
        return t_emb.new_ones(len(t_emb), self.heads)

    def reset(self) -> None:
        """Nothing to open."""


class OpenTokens(nn.Module):
    """In place of an SDT router: every token is on, (N, T, C) -> (N, T) of ones."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.new_ones(x.shape[:2])

    def reset(self) -> None:
        """Nothing to open."""


class TdwOnlyBlock(DyDiTBlock):
    """Block without a token router."""

    token_router = OpenTokens


class TdwOnly(DyDiT):
    """Timestep-wise dynamic width alone (Table 3, I): all tokens pass the MLP."""

    block_type = TdwOnlyBlock


class SdtOnlyBlock(DyDiTBlock):
    """Block without width routers."""

    width_router = OpenWidths


class SdtOnly(DyDiT):
    """Spatial-wise dynamic tokens alone (Table 3, II): all heads and channel groups are on."""

    block_type = SdtOnlyBlock


class LayerRouter(TokenRouter):
    """One decision per image and layer: the SDT router on the image's mean token, (N, T, C) -> (N, T), equal over T."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(1, keepdim=True)).expand(-1, x.shape[1])


class LayerSkipBlock(DyDiTBlock):
    """Block whose MLP is passed by all tokens of an image or by none."""

    token_router = LayerRouter


class LayerSkip(DyDiT):
    """Layers skipped instead of tokens (Table 3, III with layer-skip).

    Known: layer skipping replaces SDT in model III. So TDW stays, and the skipped layer is the one that SDT gates, the
    MLP. Our reading: the decision is made for each image and block, by a router of the same size that sees the mean of
    the tokens instead of each of them. The state dict has DyDiT's keys.
    """

    block_type = LayerSkipBlock


class DepthBlock(DyDiTBlock):
    """Block without widths, whose attention and whose MLP each run whole or are skipped, biases included."""

    width_router = OpenWidths
    token_router = LayerRouter

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.attn_rate = LayerRouter(config.hidden_size, config.token_router_hidden)

    def masked(self, x: Tensor, c: Tensor, t_emb: Tensor, override: Masks | None) -> tuple[Tensor, Masks]:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=1)
        channels = self.mlp_rate(t_emb)
        heads = self.attn_rate(x)[:, :1].expand_as(channels)  # head 0 stands for the layer
        if override is not None:
            heads, channels = override[0].to(x.dtype), override[1].to(x.dtype)
        attended = self.attn(modulate(self.norm1(x), shift_a, scale_a), heads.detach())
        x = x + heads[:, :1, None] * gate_a[:, None] * attended
        tokens = self.token_selection(x) if override is None else override[2].to(x.dtype)
        update = gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m), channels)
        return x + tokens[:, :, None] * update, (heads, channels, tokens)


class LayerSkipOnly(DyDiT):
    """Layer skipping without TDW (an open question of the reviews): dynamic depth and nothing else.

    Attention can be skipped, too, since the MLPs make up less than two thirds of the work. A skipped attention layer
    stands in `Routing` as one whose heads are all closed, head 0 included.
    """

    block_type = DepthBlock
    realised = False


class TokenRouting(Routing):
    """Routing in which a closed token is closed for the whole block: neither MLP nor query."""

    @property
    def query_rate(self) -> Tensor:
        return self.token_rate


class TokenSkipBlock(DyDiTBlock):
    """Block that a closed token passes unchanged; its token router stands before attention."""

    def masked(self, x: Tensor, c: Tensor, t_emb: Tensor, override: Masks | None) -> tuple[Tensor, Masks]:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=1)
        heads, channels, tokens = self.attn_rate(t_emb), self.mlp_rate(t_emb), self.token_selection(x)
        if override is not None:
            heads, channels, tokens = (mask.to(x.dtype) for mask in override)
        is_open = tokens[:, :, None]
        x = x + is_open * gate_a[:, None] * self.attn(modulate(self.norm1(x), shift_a, scale_a), heads)
        update = gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m), channels)
        return x + is_open * update, (heads, channels, tokens)


class TokenSkipAttention(DyDiT):
    """Tokens skipped for attention too, which the paper's SDT avoids.

    Our reading: one decision of the SDT router, made on the block's input, applies to attention and MLP. A closed token
    passes the block unchanged, and its query, scores, weighted values and projection are not computed. Its key and
    value are, so that open tokens still see the whole image. Attention then costs a (2 T C^2 + s (2 T C^2 + 2 T^2 C)),
    with head ratio a and token ratio s; keys and values count even for an image without open tokens.
    """

    block_type = TokenSkipBlock
    routing_type = TokenRouting
    realised = False


class OpenBlock(DyDiTBlock):
    """Block without routers, for masks that come from outside."""

    width_router = OpenWidths
    token_router = OpenTokens


class RandomRouting(DyDiT):
    """Random masks at fixed rates in place of learned ones (Table 3, I with random router, at a token rate of 1).

    The rates are the same in every block; with those of a trained DyDiT (`Routing.rates`) the expected FLOPs are equal.
    Our reading: the model is fine-tuned under random masks, too. Training draws new masks for each image and step from
    torch's global generator. In evaluation the masks are a fixed function of `seed` and timestep, equal for all images.
    A new model has rates of 1: nothing is masked until `set_rates`.
    """

    block_type = OpenBlock
    realised = False
    random_rates: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.seed = 0
        self.register_buffer("random_rates", torch.ones(3))

    def set_rates(self, rates: tuple[float, float, float], seed: int = 0) -> None:
        """From now on draw masks at these rates of heads, channel groups and tokens; the state dict keeps the rates.

        Raises:
            InputError: a rate above 1, or below 1 / H where one head or channel group is always on.
        """
        least = 1 / self.config.num_heads
        for name, rate, low in zip(("heads", "channel groups", "tokens"), rates, (least, least, 0.0), strict=True):
            if not low - 1e-6 <= rate <= 1 + 1e-6:
                raise InputError(f"random routing: rate {rate} of {name}; it must lie in [{low:.3g}, 1]")
        self.random_rates.copy_(torch.tensor(rates))
        self.seed = seed

    def route(self, x: Tensor, t: Tensor | int, y: Tensor, routing: Routing | None = None) -> tuple[Tensor, Routing]:
        if routing is None:
            routing = self.draw(t if isinstance(t, Tensor) else torch.full((len(x),), t))
        return super().route(x, t, y, routing)

    def draw(self, t: Tensor) -> Routing:
        """Masks for images at timesteps (N,), on the network's device."""
        config, (heads, channels, tokens) = self.config, self.random_rates.tolist()
        sizes = (config.depth, config.num_heads, config.tokens)
        if self.training:
            drawn = [Routing.random((len(t), *sizes), (heads, channels, tokens), shared=False)]
            index = torch.arange(len(t))
        else:
            steps, index = torch.unique(t.cpu(), return_inverse=True)
            seeds = [self.seed * TIMESTEPS + step for step in steps.tolist()]
            sources = [torch.Generator().manual_seed(seed) for seed in seeds]
            drawn = [Routing.random((1, *sizes), (heads, channels, tokens), source) for source in sources]
        masks = zip(*((each.heads, each.channels, each.tokens) for each in drawn), strict=True)
        return Routing(*(torch.cat(parts)[index].to(self.random_rates.device) for parts in masks))


class SoftWidthRouter(WidthRouter):
    """TDW router with the gate 2 sigmoid(logit), in (0, 2) and 1 at first; that of the first head or group is 1."""

    def gate(self, logits: Tensor) -> Tensor:
        return 2 * torch.sigmoid(logits)

    def reset(self) -> None:
        """Gates of 1, whatever the input."""
        nn.init.zeros_(self.router.weight)
        nn.init.zeros_(self.router.bias)


class SoftTokenRouter(TokenRouter):
    """SDT router with the gate 2 sigmoid(logit), in (0, 2) and 1 at first."""

    def gate(self, logits: Tensor) -> Tensor:
        return 2 * torch.sigmoid(logits)

    def reset(self) -> None:
        """Gates of 1, whatever the input."""
        last: Any = self.mlp_head[2]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


class SoftBlock(DyDiTBlock):
    """Block whose masks are soft factors."""

    width_router = SoftWidthRouter
    token_router = SoftTokenRouter


class SoftRouting(Routing):
    """Soft factors in place of masks: nothing is ever closed, so every rate is 1."""

    @property
    def head_rate(self) -> Tensor:
        return torch.ones_like(super().head_rate)

    @property
    def channel_rate(self) -> Tensor:
        return torch.ones_like(super().channel_rate)

    @property
    def token_rate(self) -> Tensor:
        return torch.ones_like(super().token_rate)


class SoftGated(DyDiT):
    """Control with DyDiT's router parameters that multiplies and never skips: its FLOPs ratio is 1.

    Our reading: no noise, and the gate 2 sigmoid(logit) with logits of 0 at first, which is exactly 1 and has its
    steepest slope there. A plain sigmoid with DyDiT's initial biases would be 1 to rounding, too, but without a
    gradient to learn from.
    """

    block_type = SoftBlock
    routing_type = SoftRouting
    realised = False
