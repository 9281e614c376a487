"""Sizes of the diffusion transformers (DiT paper, Table 1; DyDiT paper, Table 7), by name."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from dydit.errors import InputError, nearest

VAE_DOWNSAMPLING = 8
TIMESTEPS = 1000
"""Steps of the noise schedule that the networks are trained on; they see the numbers 0 to 999."""
PATCH_SIZES = (2, 4, 8)
LARGEST = {
    "input_size": 1024,
    "in_channels": 1024,
    "hidden_size": 65_536,
    "depth": 1000,
    "num_classes": 1_000_000,
    "mlp_hidden": 1_048_576,
}
"""What no network of this family comes near: a larger field is a damaged file or a mistyped number."""
PAPER_LAMBDAS: dict[str, tuple[float, ...]] = {
    "S": (0.9, 0.8, 0.7, 0.5, 0.4, 0.3),
    "B": (0.9, 0.8, 0.7, 0.5, 0.4, 0.3),
    "XL": (0.7, 0.6, 0.5, 0.3),
}
"""Target FLOPs ratios with a row in the DyDiT paper's Table 8, by size."""


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a (Dy)DiT; its fields are the keyword arguments of `DiT` and `DyDiT`.

    Sizes are in elements: `input_size` is the side of the square latent (or pixel) input, `hidden_size` the token
    width C, `num_heads` the number H of attention heads, which is also the number of the MLP's channel groups.
    `head_width` is the number of channels of one head where heads were pruned away, and None where it is C / H.

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
    head_width: int | None = None

    def __post_init__(self) -> None:
        self._check_types()
        for name in (
            "input_size",
            "patch_size",
            "in_channels",
            "hidden_size",
            "depth",
            "num_heads",
            "num_classes",
            "mlp_hidden",
            *(() if self.head_width is None else ("head_width",)),
        ):
            if getattr(self, name) < 1:
                raise InputError(f"config: {name} = {getattr(self, name)}; it must be at least 1")
        for name, most in LARGEST.items():
            if getattr(self, name) > most:
                raise InputError(f"config: {name} = {str(getattr(self, name))[:40]}; it must be at most {most:,}")
        pairs = [("input_size", "patch_size"), ("mlp_hidden", "num_heads")]
        if self.head_width is None:
            pairs.insert(1, ("hidden_size", "num_heads"))
        for whole, part in pairs:
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

    def _check_types(self) -> None:
        """Refuse numbers of the wrong kind, such as half a layer, before anything is computed with them."""
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), str(field.type).removesuffix(" | None")
            if value is None and kind != field.type:
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            fits = {"int": whole, "bool": isinstance(value, bool)}.get(kind, whole or isinstance(value, float))
            if not fits or (kind == "float" and not math.isfinite(value)):
                wanted = {"int": "a whole number", "bool": "true or false"}.get(kind, "a finite number")
                raise InputError(f"config: {field.name} = {value!r}; it must be {wanted}")

    @property
    def grid_size(self) -> int:
        return self.input_size // self.patch_size

    @property
    def tokens(self) -> int:
        return self.grid_size**2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads if self.head_width is None else self.head_width

    @property
    def attention_width(self) -> int:
        """Channels of all heads together: C, and fewer where heads were pruned away."""
        return self.num_heads * self.head_dim

    @property
    def mlp_hidden(self) -> int:
        # A ratio that was made by division falls short of a whole number of channels by rounding.
        return math.floor(self.hidden_size * self.mlp_ratio + 1e-6)

    @property
    def token_router_hidden(self) -> int:
        return max(self.hidden_size // 16, 1)

    @property
    def label_rows(self) -> int:
        """Rows of the label table: the classes, and the null label where training drops labels."""
        return self.num_classes + (self.class_dropout_prob > 0)

    @property
    def null_label(self) -> int | None:
        """The label that stands for none; None where the label table has no row for it."""
        return self.num_classes if self.label_rows > self.num_classes else None

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    def kwargs(self) -> dict[str, Any]:
        """The fields by name, as files record them; without `head_width` where no head was pruned, as older files."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if value is not None}


_SIZES = {  # depth, hidden_size, num_heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}

MODEL_NAMES = tuple(f"{kind}-{size}/{patch}" for kind in ("DiT", "DyDiT") for size in _SIZES for patch in PATCH_SIZES)
"""The networks of the two papers, on latents of ImageNet."""


def published_heads(hidden_size: int) -> int | None:
    """Number of heads of the published size with this width; None where no size has it."""
    return next((heads for _, width, heads in _SIZES.values() if width == hidden_size), None)


_PIXEL_DATA = {"cifar10": (32, 3, 10)}  # side in pixels, channels, classes
PIXEL_MODEL_NAMES = tuple(f"{kind}-S/2-{data}" for kind in ("DiT", "DyDiT") for data in _PIXEL_DATA)
"""Networks on the pixels of a small data set, without an autoencoder. Size S at patch 2 makes 256 tokens of a 32 x 32
image, as many as the papers' networks make of an ImageNet one, with the same 6 GMACs and 32.5 M parameters."""


def model_config(name: str, resolution: int | None = None) -> DiTConfig:
    """Configuration of a named model.

    Args:
        name: one of `MODEL_NAMES` or `PIXEL_MODEL_NAMES`.
        resolution: side of the images in pixels. The papers' models see latents of an eighth of it, by default those of
            256 pixels; a pixel model has the one resolution of its data set.

    Raises:
        InputError: unknown name (the nearest names are offered) or a resolution that does not fit the model.
    """
    names = (*MODEL_NAMES, *PIXEL_MODEL_NAMES)
    if name not in names:
        raise InputError(f"unknown model {name!r}; nearest names: {', '.join(nearest(name, names))}")
    _, size_and_patch, *data = name.split("-")
    size, patch = size_and_patch.split("/")
    if data:
        input_size, channels, classes = _PIXEL_DATA[data[0]]
        if resolution not in (None, input_size):
            raise InputError(f"resolution {resolution} does not fit {name}; its images have {input_size} pixels a side")
    else:
        resolution = 256 if resolution is None else resolution
        step = VAE_DOWNSAMPLING * int(patch)
        if resolution < step or resolution % step:
            raise InputError(f"resolution {resolution} does not fit {name}; use a multiple of {step}")
        input_size, channels, classes = resolution // VAE_DOWNSAMPLING, 4, 1000
    depth, hidden_size, num_heads = _SIZES[size]
    return DiTConfig(
        input_size=input_size,
        patch_size=int(patch),
        in_channels=channels,
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
        num_classes=classes,
    )


def check_lambda(value: float) -> float:
    """Return a target FLOPs ratio unchanged.

    Raises:
        InputError: it does not lie in (0, 1].
    """
    if not 0.0 < value <= 1.0:
        raise InputError(f"lambda = {value}: the target FLOPs ratio must lie in (0, 1]")
    return value
