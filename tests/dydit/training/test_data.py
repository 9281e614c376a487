"""Mirrored images."""

from __future__ import annotations

import torch

from dydit.training.data import mirror_images


def test_mirroring_turns_the_chosen_images_left_to_right() -> None:
    x = torch.rand(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mirrored = mirror_images(x, torch.tensor([True, False] * 4))
    assert torch.equal(mirrored[::2], x[::2].flip(-1))
    assert torch.equal(mirrored[1::2], x[1::2])
