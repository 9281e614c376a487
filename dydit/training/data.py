"""What a training reads: labelled images or latents, by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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
    """Data in memory, on one device: images (M, C, S, S) in [-1, 1], or latents, and labels (M,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """As `Data.batch`."""
        rows = rows.to(self.images.device)
        return mirror_images(self.images[rows], mirror), self.labels[rows]


def mirror_images(x: Tensor, mirror: Tensor) -> Tensor:
    """Images (N, C, S, S), those where `mirror` (N,) is set mirrored left to right."""
    return torch.where(mirror.to(x.device)[:, None, None, None], x.flip(-1), x)
