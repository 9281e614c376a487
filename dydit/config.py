"""Sizes of the diffusion transformers (DiT paper, Table 1; DyDiT paper, Table 7), by name."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

from dydit.errors import InputError

VAE_DOWNSAMPLING = 8
PATCH_SIZES = (2, 4, 8)
PAPER_LAMBDAS: dict[str, tuple[float, ...]] = {
    "S": (0.9, 0.8, 0.7, 0.5, 0.4, 0.3),
    "B": (0.9, 0.8, 0.7, 0.5, 0.4, 0.3),
    "XL": (0.7, 0.6, 0.5, 0.3),
}
"""Target FLOPs ratios with a row in the DyDiT paper's Table 8, by size."""


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a (Dy)DiT; its fields are the keyword arguments of `DiT` and `DyDiT`.

    Sizes are in elements: `input_size` is the side of the square latent (or pixel) input,
    `hidden_size` the token width C, `num_heads` both the attention heads and the MLP channel groups H.

    Raises:
        InputError: a field that no network can be built from.
    """

    input_size: int
    patch_size: int
    in_channels: int
    hidden_size: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    class_dropout_prob: float = 0.1
    num_classes: int = 1000
    learn_sigma: bool = True

    def __post_init__(self) -> None:
        for name in (
            "input_size",
            "patch_size",
            "in_channels",
            "hidden_size",
            "depth",
            "num_heads",
            "num_classes",
            "mlp_hidden",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"config: {name} = {getattr(self, name)}; it must be at least 1")
        for whole, part in (
            ("input_size", "patch_size"),
            ("hidden_size", "num_heads"),
            ("mlp_hidden", "num_heads"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise InputError(
                    f"config: {whole} = {getattr(self, whole)} is not a multiple of "
                    f"{part} = {getattr(self, part)}; choose one that is"
                )
        if self.hidden_size % 4:
            raise InputError(
                f"config: hidden_size = {self.hidden_size} is not a multiple of 4, "
                "which the 2-D sine/cosine position table needs"
            )
        if not 0.0 <= self.class_dropout_prob <= 1.0:
            raise InputError(f"config: class_dropout_prob = {self.class_dropout_prob}; it must lie in [0, 1]")

    @property
    def grid_size(self) -> int:
        return self.input_size // self.patch_size

    @property
    def tokens(self) -> int:
        return self.grid_size**2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def mlp_hidden(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def token_router_hidden(self) -> int:
        return max(self.hidden_size // 16, 1)

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    def kwargs(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_SIZES = {  # depth, hidden_size, num_heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}

MODEL_NAMES = tuple(f"{kind}-{size}/{patch}" for kind in ("DiT", "DyDiT") for size in _SIZES for patch in PATCH_SIZES)


def model_config(name: str, resolution: int = 256) -> DiTConfig:
    """Configuration of a named ImageNet model on images of `resolution` pixels (latents of resolution / 8).

    Raises:
        InputError: unknown name (the nearest names are offered) or a resolution the patches do not divide.
    """
    if name not in MODEL_NAMES:
        nearest = difflib.get_close_matches(name, MODEL_NAMES, n=3, cutoff=0.4) or MODEL_NAMES[:3]
        raise InputError(f"unknown model {name!r}; nearest names: {', '.join(nearest)}")
    size, patch = name.split("-")[1].split("/")
    step = VAE_DOWNSAMPLING * int(patch)
    if resolution < step or resolution % step:
        raise InputError(f"resolution {resolution} does not fit {name}; use a multiple of {step}")
    depth, hidden_size, num_heads = _SIZES[size]
    return DiTConfig(
        input_size=resolution // VAE_DOWNSAMPLING,
        patch_size=int(patch),
        in_channels=4,
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
    )


def check_lambda(value: float) -> float:
    """Return a target FLOPs ratio unchanged.

    Raises:
        InputError: it does not lie in (0, 1].
    """
    if not 0.0 < value <= 1.0:
        raise InputError(f"lambda = {value}: the target FLOPs ratio must lie in (0, 1]")
    return value
