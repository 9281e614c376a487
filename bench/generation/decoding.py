"""From what a model draws to bytes: pixels as they are, latents through the autoencoder of Stable Diffusion.

Sources: DiT (arXiv 2212.09748), Sections 4 and 5: latents times 0.18215, and the clamp that makes bytes.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.data.preprocessing import to_uint8
from bench.models import ImageShape
from dydit import InputError, first_line

VAES = {
    "sd-vae-ft-ema": "stabilityai/sd-vae-ft-ema",
    "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
}
"""Published autoencoders by short name: their repository on the hub. The headline rows use the first."""
DEFAULT_VAE = "sd-vae-ft-ema"
LATENT_CHANNELS = 4
LATENT_SCALE = 0.18215
"""Models see latents times this."""
DECODE_BATCH = 8
"""Latents that the autoencoder decodes at once: its activations are hundreds of times as large as a latent."""


@dataclass(frozen=True)
class PixelDecoder:
    """For models of pixels: x (N, C, S, S) in about [-1, 1] -> uint8 of the same shape; `shape` is (H, W, C)."""

    shape: tuple[int, int, int]
    name: str = "pixels"

    def __call__(self, x: Tensor) -> Tensor:
        """Raises InputError on NaN."""
        return to_uint8(x.float())

    def weights(self) -> dict[str, Tensor]:
        """No weights."""
        return {}


@dataclass(frozen=True)
class LatentDecoder:
    """For models of latents: x (N, 4, S, S) -> uint8 (N, 3, H, W) by a float32 autoencoder; `shape` is (H, W, 3)."""

    shape: tuple[int, int, int]
    vae: Any
    name: str = f"autoencoder, latents / {LATENT_SCALE}, float32, {DECODE_BATCH} at a time"

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Raises InputError on NaN."""
        latents = x.float() / LATENT_SCALE
        return torch.cat([to_uint8(self.vae.decode(part).sample) for part in torch.split(latents, DECODE_BATCH)])

    def weights(self) -> dict[str, Tensor]:
        """The autoencoder's state dict."""
        state: dict[str, Tensor] = self.vae.state_dict()
        return state


Decoder = PixelDecoder | LatentDecoder


def open_decoder(config: ImageShape, vae: str | None, device: torch.device | str = "cpu") -> Decoder:
    """The decoder that a model needs, on its device.

    Args:
        config: of the model; 1 or 3 channels are pixels, 4 are latents.
        vae: a name of `VAES` or a directory with an autoencoder in diffusers' layout; `DEFAULT_VAE` where it is None.
        device: where to decode.

    Raises:
        InputError: an autoencoder for a model of pixels, one that cannot be found, fetched or read, one that does not
            fit the latents, or a model of another number of channels.
    """
    side, channels = config.input_size, config.in_channels
    if channels in (1, 3):
        if vae is not None:
            raise InputError(f"vae {vae}: the model draws pixels ({channels} channels), which need none; leave it out")
        return PixelDecoder((side, side, channels))
    if channels != LATENT_CHANNELS:
        raise InputError(f"a model of {channels} channels draws neither pixels (1 or 3) nor latents (4); give another")
    module = open_autoencoder(vae, device)
    side *= 2 ** (len(module.config.block_out_channels) - 1)
    return LatentDecoder((side, side, 3), module)


def open_autoencoder(vae: str | None, device: torch.device | str = "cpu") -> Any:
    """An AutoencoderKL in evaluation mode, float32, on a device.

    Args:
        vae: a name of `VAES` or a directory with an autoencoder in diffusers' layout; `DEFAULT_VAE` where it is None.
        device: where it shall run.

    Raises:
        InputError: one that cannot be found, fetched or read, or that does not fit the latents.
    """
    source = vae or DEFAULT_VAE
    module = _load(source)
    made, wanted = _facts(module), (LATENT_CHANNELS, 3, LATENT_SCALE)
    if made != wanted:
        raise InputError(
            f"vae {source}: (latent channels, image channels, scale) are {made}, the model needs {wanted}; "
            f"give one of {', '.join(VAES)}"
        )
    return module.to(device)


def _facts(module: Any) -> tuple[int, int, float]:
    return module.config.latent_channels, module.config.out_channels, module.config.scaling_factor


def _load(source: str) -> Any:
    """An AutoencoderKL in evaluation mode, float32."""
    if source not in VAES and not Path(source).is_dir():
        raise InputError(f"vae {source}: no such directory; give one in diffusers' layout, or {' or '.join(VAES)}")
    try:
        module = _from_pretrained(VAES.get(source, source))
    except Exception as error:  # the hub and damaged files raise many kinds; a user needs one line
        if source in VAES:
            raise InputError(
                f"vae {source}: cannot fetch {VAES[source]} ({first_line(error)}); download that repository where "
                "there is a network and give its directory as --vae PATH"
            ) from None
        raise InputError(
            f"vae {source}: no autoencoder in diffusers' layout ({first_line(error)}); it holds config.json and "
            f"diffusion_pytorch_model.safetensors, as in {VAES[DEFAULT_VAE]}"
        ) from None
    return module.float().eval().requires_grad_(False)


def _from_pretrained(source: str) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.utils import logging as diffusers_logging

    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(logging.CRITICAL)  # the caller reports what goes wrong
    kind: Any = AutoencoderKL  # untyped
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument")  # diffusers' own use of the hub
            # Plain loading, since quick loading asks for accelerate; safetensors, since a pickle can hold code.
            module, loading = kind.from_pretrained(
                source, low_cpu_mem_usage=False, use_safetensors=True, output_loading_info=True
            )
    finally:
        diffusers_logging.set_verbosity(verbosity)
    if missing := loading["missing_keys"]:  # diffusers leaves them at random values
        raise ValueError(f"{len(missing)} weights are missing, such as {sorted(missing)[0]}")
    return module
