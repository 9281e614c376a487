"""scikit-learn's handwritten digits (1,797 real 8x8 images, 10 classes) and the two pixel conversions of the suite."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from dydit.errors import InputError

LEVELS = 16
"""Grey levels above black in scikit-learn's images (values 0 to 16)."""
SHA256 = "0b7e9c3202d7bcd255d6a19a238d3743bf5e320ba74812a6679958a017c55382"
"""`checksum` of the data as scikit-learn 1.9 ships it; another value means that the reference data changed."""


@dataclass(frozen=True)
class Digits:
    """Images uint8 (1797, 1, 8, 8) in 0..255 and labels int64 (1797,) in 0..9, in scikit-learn's order."""

    images: Tensor
    labels: Tensor


def load() -> Digits:
    """Read the digits that come with scikit-learn; nothing is downloaded.

    The levels v = 0..16 become round(v * 255 / 16): 17 different bytes, so round(byte * 16 / 255) gives v back.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.from_numpy(bunch.images).unsqueeze(1)
    images = (levels * 255 / LEVELS).round().to(torch.uint8)
    return Digits(images=images, labels=torch.from_numpy(bunch.target).to(torch.int64))


def checksum() -> str:
    """SHA-256 (hexadecimal) over the image bytes followed by the labels as little-endian int64."""
    digits = load()
    digest = hashlib.sha256(digits.images.numpy().tobytes())
    digest.update(digits.labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def to_model(images: Tensor) -> Tensor:
    """Bytes to what the models see: uint8 of any shape to float32 in [-1, 1], byte / 127.5 - 1.

    `to_uint8` gives every byte back: it puts byte + 0.5 before its truncation, half a level from either neighbour.

    Raises:
        InputError: `images` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise InputError(f"images are {images.dtype}; to_model takes torch.uint8")
    return images.to(torch.float32) / 127.5 - 1.0


def to_uint8(x: Tensor) -> Tensor:
    """Model output to bytes by the published protocol: clamp(127.5 * x + 128, 0, 255), truncated.

    Raises:
        InputError: `x` is not floating point, or holds NaN (whose byte would depend on the processor).
    """
    if not x.is_floating_point():
        raise InputError(f"images are {x.dtype}; to_uint8 takes floating-point values in [-1, 1]")
    if x.isnan().any():
        raise InputError("images hold NaN; the model that made them diverged")
    return (127.5 * x + 128.0).clamp(0, 255).to(torch.uint8)
