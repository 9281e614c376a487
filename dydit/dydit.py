"""DyDiT (paper, Section 3): DiT whose blocks carry routers; the masked forward that training uses.

The masked forward multiplies by the masks and skips nothing: it defines the function, not the speed.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from dydit.config import DiTConfig
from dydit.dit import DiT, DiTBlock, modulate
from dydit.errors import InputError
from dydit.routing import Routing, TokenRouter, WidthRouter

Masks = tuple[Tensor, Tensor, Tensor]


class DyDiTBlock(DiTBlock):
    """DiT block with two width routers on the timestep embedding and one token router before the MLP.

    Ablations put other routers in their place.
    """

    width_router: type[nn.Module] = WidthRouter
    token_router: type[nn.Module] = TokenRouter

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        width, heads = config.hidden_size, config.num_heads
        self.attn_rate = self.width_router(width, heads)
        self.mlp_rate = self.width_router(width, heads)
        self.token_selection = self.token_router(width, config.token_router_hidden)

    def masked(self, x: Tensor, c: Tensor, t_emb: Tensor, override: Masks | None) -> tuple[Tensor, Masks]:
        """Tokens (N, T, C) -> tokens and the masks used: heads (N, H), channel groups (N, H), tokens (N, T).

        `override` holds masks to use instead of the routers' own; the routers run in both cases, at the same cost.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=1)
        heads = self.attn_rate(t_emb)
        channels = self.mlp_rate(t_emb)
        if override is not None:
            heads, channels = override[0].to(x.dtype), override[1].to(x.dtype)
        x = x + gate_a[:, None] * self.attn(modulate(self.norm1(x), shift_a, scale_a), heads)
        tokens = self.token_selection(x)
        if override is not None:
            tokens = override[2].to(x.dtype)
        update = gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m), channels)
        return x + tokens[:, :, None] * update, (heads, channels, tokens)


class DyDiT(DiT):
    """Dynamic DiT; keyword arguments are the fields of `DiTConfig`, and the state dict is the published layout.

    Raises:
        InputError: a configuration no network can be built from, or, in `route`, masks of another shape.
    """

    block_type = DyDiTBlock
    routing_type: type[Routing] = Routing
    """The class that holds the masks of a forward and turns them into rates of work."""
    realised: ClassVar[bool] = True
    """Whether `Engine`, which skips heads, channel groups and tokens of the MLP, computes this class's function."""

    def forward(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """As `DiT.forward`, with every block routed."""
        return self.route(x, t, y)[0]

    def complete(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """The complete model: routers ignored, nothing masked (the warm-up term of the paper's training)."""
        return super().forward(x, t, y)

    def route(self, x: Tensor, t: Tensor | int, y: Tensor, routing: Routing | None = None) -> tuple[Tensor, Routing]:
        """Output (N, out_channels, S, S) and the routing that made it.

        Args:
            x: noisy latents (N, in_channels, S, S).
            t: original timesteps, int64 (N,), or one number for all images.
            y: labels, int64 (N,).
            routing: masks to use instead of the routers' own.
        """
        if routing is not None:
            self._check(routing, len(x))
        tokens, t_emb, c = self.embed(x, t, y)
        used = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, DyDiTBlock)
            override = routing.layer(index) if routing else None
            tokens, masks = self.run_block(block.masked, tokens, c, t_emb, override)
            used.append(masks)
        return self.unpatchify(self.final_layer(tokens, c)), self.routing_type.stack(used)

    def router_parameters(self) -> int:
        """Number of parameters that DyDiT adds to DiT."""
        return sum(p.numel() for block in self.blocks for router in routers(block) for p in router.parameters())

    def _check(self, routing: Routing, batch: int) -> None:
        cfg = self.config
        for name, size in (("heads", cfg.num_heads), ("channels", cfg.num_heads), ("tokens", cfg.tokens)):
            shape, expected = tuple(getattr(routing, name).shape), (batch, cfg.depth, size)
            if shape != expected:
                raise InputError(
                    f"routing.{name} has shape {shape}, the model needs {expected}; rebuild it for this model"
                )

    def _initialise(self) -> None:
        super()._initialise()
        for block in self.blocks:
            for router in routers(block):
                router.reset()


def routers(block: Any) -> tuple[WidthRouter | TokenRouter, ...]:
    """The three routers of a DyDiT block."""
    return block.attn_rate, block.mlp_rate, block.token_selection


def is_router_key(key: str) -> bool:
    """Whether a state-dict key belongs to a router, that is, exists in DyDiT (or an ablation of it) but not in DiT."""
    if key == "random_rates":  # what the ablation without routers has instead
        return True
    return key.startswith("blocks.") and key.split(".")[2] in ("attn_rate", "mlp_rate", "token_selection")
