"""The static diffusion transformer (DiT paper, Section 3; adaLN-Zero blocks): baseline and backbone of DyDiT.

Shape letters: N images, T tokens, C hidden size, H heads, p patch side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dydit.config import TIMESTEPS, DiTConfig
from dydit.errors import InputError, check_indices

Result = TypeVar("Result")


def sincos_table(width: int, grid: int) -> Tensor:
    """Fixed 2-D sine/cosine position table, float32 (1, grid * grid, width).

    The first half of the channels encodes the column, the second the row.
    """
    omega = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.outer(torch.arange(grid, dtype=torch.float64), omega)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, C/2)
    columns = axis.repeat(grid, 1)
    rows = axis.repeat_interleave(grid, 0)
    return torch.cat([columns, rows], dim=1).float()[None]


def timestep_features(t: Tensor, width: int = 256, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal features of timesteps (N,), cosines first: float32 (N, width)."""
    half = width // 2
    exponents = -math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half
    # A timestep multiplies a frequency's error by up to 999: exp is rounded once, alike on every device.
    frequencies = exponents.double().exp().float()
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def timestep_rows(t: Tensor | int, x: Tensor) -> Tensor:
    """Timesteps (N,) of images x (N, ...), on their device; a number is the timestep of all."""
    return t if isinstance(t, Tensor) else torch.full((len(x),), t, device=x.device)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (N, T, C) scaled and shifted per image by (N, C) vectors."""
    return x * (1 + scale[:, None]) + shift[:, None]


class PatchEmbed(nn.Module):
    """(N, in_channels, S, S) -> (N, T, C) by a convolution with kernel = stride = p."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        p = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, kernel_size=p, stride=p)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class TimestepEmbedder(nn.Module):
    """Timesteps (N,) -> (N, C)."""

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        features = timestep_features(t, self.features)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))  # type: ignore[no-any-return]


class LabelEmbedder(nn.Module):
    """Class labels (N,) -> (N, C); in training a label is replaced by the null label with probability `dropout`."""

    def __init__(self, num_classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (dropout > 0), width)
        self.num_classes = num_classes
        self.dropout = dropout

    def forward(self, y: Tensor) -> Tensor:
        if self.training and self.dropout > 0:
            dropped = torch.rand(y.shape, device=y.device) < self.dropout
            y = torch.where(dropped, self.num_classes, y)
        return self.embedding_table(y)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, (N, T, C) -> (N, T, C), by heads of C / H or `head_width` channels."""

    def __init__(self, width: int, heads: int, head_width: int | None = None) -> None:
        super().__init__()
        inner = width if head_width is None else heads * head_width
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * inner)
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor, head_mask: Tensor | None = None) -> Tensor:
        """`head_mask` (N, H) multiplies each head's output; a closed head contributes nothing."""
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)  # (N, H, T, C/H)
        if head_mask is not None:
            out = out * head_mask[:, :, None, None]
        return self.proj(out.transpose(1, 2).reshape(n, tokens, -1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with tanh-GELU between, (N, T, C) -> (N, T, C)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, group_mask: Tensor | None = None) -> Tensor:
        """`group_mask` (N, H) zeroes contiguous groups of hidden channels before GELU, where 0 stays 0."""
        hidden = self.fc1(x)
        if group_mask is not None:
            groups = group_mask.shape[1]
            hidden = (hidden.unflatten(-1, (groups, -1)) * group_mask[:, None, :, None]).flatten(-2)
        return self.fc2(F.gelu(hidden, approximate="tanh"))  # type: ignore[no-any-return]


class DiTBlock(nn.Module):
    """Transformer block with adaLN-Zero conditioning (DiT paper, Figure 3)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(width, config.num_heads, config.head_width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width, config.mlp_hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate_a[:, None] * self.attn(modulate(self.norm1(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m))  # type: ignore[no-any-return]


class FinalLayer(nn.Module):
    """(N, T, C) -> (N, T, p * p * out_channels)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, config.patch_size**2 * config.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))  # type: ignore[no-any-return]


class DiT(nn.Module):
    """Class-conditional diffusion transformer; keyword arguments are the fields of `DiTConfig`.

    Raises:
        InputError: a configuration no network can be built from.
    """

    block_type: type[nn.Module] = DiTBlock
    recompute: bool = False
    """Whether training keeps only the input of every block and computes the rest again for the gradient."""
    pos_embed: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = DiTConfig(**config)
        width = self.config.hidden_size
        self.x_embedder = PatchEmbed(self.config)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(self.config.num_classes, width, self.config.class_dropout_prob)
        self.register_buffer("pos_embed", sincos_table(width, self.config.grid_size))
        self.blocks = nn.ModuleList(self.block_type(self.config) for _ in range(self.config.depth))
        self.final_layer = FinalLayer(self.config)
        self._initialise()

    def forward(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """Predict noise and variance.

        Args:
            x: noisy latents (N, in_channels, S, S).
            t: original timesteps in [0, 1000), int64 (N,), or one number for all images.
            y: labels, int64 (N,); `num_classes` is the null label, where the network was built with label dropout.

        Returns:
            (N, out_channels, S, S): noise, then the variance interpolation when `learn_sigma`.

        Raises:
            InputError: as `check_inputs`.
        """
        tokens, _, c = self.embed(x, t, y)
        for block in self.blocks:
            tokens = self.run_block(block, tokens, c)
        return self.unpatchify(self.final_layer(tokens, c))

    def run_block(self, call: Callable[..., Result], *inputs: Any) -> Result:
        """`call(*inputs)` of one block; with `recompute`, training computes it twice to save memory."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(call, *inputs, use_reentrant=False)
        return call(*inputs)

    def embed(self, x: Tensor, t: Tensor | int, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (N, T, C), timestep embedding (N, C) and conditioning c = t_emb + y_emb (N, C).

        Raises:
            InputError: as `check_inputs`.
        """
        self.check_inputs(x, t, y)
        t_emb = self.t_embedder(timestep_rows(t, x))
        return self.x_embedder(x) + self.pos_embed, t_emb, t_emb + self.y_embedder(y)

    def check_inputs(self, x: Tensor, t: Tensor | int, y: Tensor) -> None:
        """Refuse what would be read as something else: other patches, a tensor of one timestep, fractions, no class.

        Raises:
            InputError: images of another shape than (N, in_channels, input_size, input_size), or of whole numbers;
                timesteps or labels that are not N whole numbers, or out of range (of tensors seen on the CPU alone).
        """
        config = self.config
        wanted = (config.in_channels, config.input_size, config.input_size)
        if x.ndim != 4 or tuple(x.shape[1:]) != wanted or not len(x):
            raise InputError(
                f"input of shape {tuple(x.shape)}; the network takes (N, {wanted[0]}, {wanted[1]}, {wanted[2]})"
            )
        if not x.is_floating_point():
            raise InputError(f"input of {x.dtype}; the network takes floating-point numbers, pixels in [-1, 1]")
        known = f"original timesteps 0 to {TIMESTEPS - 1}"
        if isinstance(t, Tensor):
            check_indices("timesteps", t, len(x), TIMESTEPS, known)
        elif type(t) is not int or not 0 <= t < TIMESTEPS:
            raise InputError(f"timestep {t!r}; give whole numbers, {known}")
        null = "no null label" if config.null_label is None else f"the null label {config.null_label}"
        check_indices("labels", y, len(x), config.label_rows, f"classes 0 to {config.num_classes - 1}, {null}")

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(N, T, p * p * out) -> (N, out, S, S)."""
        p, grid, out = self.config.patch_size, self.config.grid_size, self.config.out_channels
        patches = patches.reshape(-1, grid, grid, p, p, out)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, out, grid * p, grid * p)

    def _initialise(self) -> None:
        """Xavier-uniform linear layers, small normal embeddings, zero modulations and output (DiT paper, 3.2)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        patches = self.x_embedder.proj
        nn.init.xavier_uniform_(patches.weight.view(self.config.hidden_size, -1))
        if patches.bias is not None:
            nn.init.zeros_(patches.bias)
        embeddings: tuple[Any, ...] = (self.y_embedder.embedding_table, self.t_embedder.mlp[0], self.t_embedder.mlp[2])
        for layer in embeddings:
            nn.init.normal_(layer.weight, std=0.02)
        zeroed: list[Any] = [block.adaLN_modulation for block in self.blocks] + [self.final_layer.adaLN_modulation]
        for layer in (*(modulation[1] for modulation in zeroed), self.final_layer.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
