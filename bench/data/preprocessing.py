"""Picture files to pixels: decoding with Pillow, ADM's centre crop, and the conversion to and from model values."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dydit import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


PREPROCESSING = "adm-centre-crop"
"""Name of `centre_crop`, as statistics files record it."""
NATIVE = "native"
"""Name of no preprocessing: the pixels as they are stored."""
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
_FOREIGN = frozenset({".heic", ".heif", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".nef", ".psd", ".exr", ".hdr"})
LARGEST = 2**28
"""Pixels that a picture may have while it is brought to a size; about 0.8 GB as RGB."""


@functools.cache
def read_suffixes() -> frozenset[str]:
    """Picture files that are read, in lower case; AVIF where Pillow was built with it."""
    from PIL import features

    return _SUFFIXES | ({".avif"} if features.check("avif") else set())


@functools.cache
def foreign_suffixes() -> frozenset[str]:
    """Picture files of formats that are not read, in lower case."""
    from PIL import Image as Pillow

    pictures = {suffix for suffix, kind in Pillow.registered_extensions().items() if kind in Pillow.OPEN}
    return frozenset(pictures - {".pdf", ".mpg", ".mpeg"} | _FOREIGN) - read_suffixes()


def check_crop(size: tuple[int, int], side: int, where: str) -> None:
    """Refuse a picture of (H, W) pixels that `centre_crop` would make too large on its way to a side.

    Raises:
        InputError: more than `LARGEST` pixels.
    """
    shorter, longer = sorted(size)
    if side * max(side * longer // shorter, 1) > LARGEST or shorter * longer > LARGEST:
        raise InputError(
            f"{where}: {size[0]}x{size[1]} pixels; bringing it to {side} pixels would take one of more than {LARGEST} "
            "pixels, cut it first or take it away"
        )


def decode(source: Path | bytes, where: str) -> Image:
    """A picture as 8-bit RGB: grey is repeated, palettes are looked up, transparency is dropped.

    Orientation tags are not followed, as in ADM's preparation of ImageNet.

    Args:
        source: the file, or its bytes.
        where: what an error calls it.

    Raises:
        InputError: a file that is not whole or no picture, or one of more than 8 bits a channel.
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            check_mode(image, where)  # before it is loaded, which forgets how it is stored
            image.load()
            if isinstance(image.info.get("transparency"), bytes):  # Pillow warns where a palette has an alpha table
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # Pillow raises whatever the broken bytes provoke
        raise InputError(f"{where}: not a whole picture ({_reason(error)}); write or download it again") from error


def size_of(path: Path) -> tuple[int, int]:
    """(H, W) of a picture file by its header alone.

    Raises:
        InputError: no picture, or one of more than 8 bits a channel.
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as image:
            check_mode(image, str(path))
            return image.height, image.width
    except InputError:
        raise
    except Exception as error:  # as in `decode`
        raise InputError(f"{path}: not a picture ({_reason(error)}); write it again or take it away") from error


def check_mode(image: Image, where: str) -> None:
    """Refuse pixels that Pillow would cut off, instead of scaling them, when it converts them to 8 bits.

    Raises:
        InputError: integers of 16 or 32 bits, or floating point.
    """
    # Pillow has a mode of its own for grey pictures of 16 bits, and cuts colours to their high byte as it reads them.
    tiles = getattr(image, "tile", None)
    stored = str(tiles[0].args) if tiles else ""
    if image.mode.startswith(("I", "F")) or ";16" in stored:
        raise InputError(f"{where}: more than 8 bits a channel ({image.mode}); convert the picture to 8 bits")


def centre_crop(image: Image, size: int) -> Image:
    """The centre square of a picture at (size, size) pixels, by ADM's protocol (Dhariwal and Nichol, 2021).

    Both sides are halved by a box filter while the shorter one is at least 2 * size; then the picture is resized
    bicubically, the shorter side to `size` and the longer one rounded; then the square is cut out, with half of the
    surplus (rounded down) removed at the left and at the top. A smaller picture is enlarged bicubically, whatever its
    size: the protocol excludes none, and ImageNet holds some. A square picture of `size` comes back unchanged.

    Args:
        image: RGB or grey.
        size: side in pixels.

    Raises:
        InputError: a size below 1.
    """
    from PIL.Image import Resampling

    if size < 1:
        raise InputError(f"resolution {size}; it must be at least 1 pixel")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def pad(image: Image, pixels: int) -> Image:
    """A picture with so many black pixels added on each side."""
    from PIL import ImageOps

    return ImageOps.expand(image, border=pixels, fill=0) if pixels else image


def to_tensor(pixels: Image | NDArray[np.uint8]) -> Tensor:
    """An RGB picture, or uint8 (H, W, C), as uint8 (C, H, W); always a copy."""
    # Copied in the order of the new axes: torch stacks contiguous images several times faster than strided views.
    return torch.from_numpy(np.array(np.asarray(pixels).transpose(2, 0, 1), order="C"))


def to_model(images: Tensor) -> Tensor:
    """Bytes to model input: uint8 of any shape to float32 in [-1, 1], byte / 127.5 - 1.

    `to_uint8` inverts it exactly: it truncates byte + 0.5, which rounding cannot move to another whole number.

    Raises:
        InputError: `images` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise InputError(f"images are {images.dtype}; to_model takes torch.uint8")
    return images.to(torch.float32) / 127.5 - 1.0


def to_uint8(x: Tensor) -> Tensor:
    """Model output to bytes by the published protocol: clamp(127.5 * x + 128, 0, 255), truncated.

    Raises:
        InputError: `x` is not floating point, or holds NaN (whose byte would depend on the processor) or infinity.
    """
    if not x.is_floating_point():
        raise InputError(f"images are {x.dtype}; to_uint8 takes floating-point values in [-1, 1]")
    if not x.isfinite().all():
        raise InputError("images hold NaN or infinity; the model that made them diverged")
    return (127.5 * x + 128.0).clamp(0, 255).to(torch.uint8)


def _reason(error: Exception) -> str:
    # Pillow ends some messages with the address of an object in memory, which is left out.
    return " ".join(str(error).split(" <_io")[0].split()) or type(error).__name__
