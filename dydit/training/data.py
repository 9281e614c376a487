"""What a training reads: labelled images or latents, by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dydit.errors import InputError


class Data(Protocol):
    """Labelled images in [-1, 1], or latents in the scale that the network takes, by row."""

    def __len__(self) -> int:
        """Number of rows."""

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, C, S, S), float32, and labels (n,), int64, of some rows.

        It may draw from torch's global generator, which the trainer seeds anew for every micro-batch.

        Args:
            rows: (n,), int64, in [0, len(self)).
            mirror: (n,), bool; where it is set, the image is mirrored left to right.
        """


@dataclass(frozen=True)
class InMemory:
    """Data in memory, on one device: images (M, C, S, S) in [-1, 1], or latents, and labels (M,).

    Raises:
        InputError: other shapes, or images of whole numbers.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not self.images.is_floating_point() or not len(self.images):
            raise InputError(
                f"images of shape {tuple(self.images.shape)}, {self.images.dtype}; give floating-point (M, C, S, S)"
            )
        whole = not self.labels.is_floating_point() and not self.labels.is_complex()
        if not whole or tuple(self.labels.shape) != (len(self.images),):
            raise InputError(
                f"labels of shape {tuple(self.labels.shape)}, {self.labels.dtype}; give whole numbers, one for each "
                f"of the {len(self.images)} images"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """As `Data.batch`."""
        rows = rows.to(self.images.device)
        return mirror_images(self.images[rows], mirror), self.labels[rows]


def mirror_images(x: Tensor, mirror: Tensor) -> Tensor:
    """Images (N, C, S, S), those where `mirror` (N,) is set mirrored left to right."""
    return torch.where(mirror.to(x.device)[:, None, None, None], x.flip(-1), x)
