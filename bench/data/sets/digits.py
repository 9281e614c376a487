"""scikit-learn's handwritten digits: 1,797 real 8x8 images, 10 classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 16
"""Grey levels above black in scikit-learn's images (values 0 to 16)."""
SHA256 = "0b7e9c3202d7bcd255d6a19a238d3743bf5e320ba74812a6679958a017c55382"
"""`checksum` of the data as scikit-learn 1.9 ships it; another value means that the reference data changed."""


@dataclass(frozen=True)
class Digits:
    """Images uint8 (1797, 1, 8, 8) in 0..255 and labels int64 (1797,) in 0..9, in scikit-learn's order."""

    images: Tensor
    labels: Tensor


def load_digits() -> Digits:
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
    digits = load_digits()
    digest = hashlib.sha256(digits.images.numpy().tobytes())
    digest.update(digits.labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
