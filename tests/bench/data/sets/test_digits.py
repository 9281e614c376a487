from __future__ import annotations

import pytest
import torch

from bench.data.sets import digits


def test_the_data_are_the_published_ones() -> None:
    data = digits.load_digits()
    assert data.images.shape == (1797, 1, 8, 8) and data.images.dtype == torch.uint8
    assert data.labels.shape == (1797,) and data.labels.dtype == torch.int64
    assert torch.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.checksum() == digits.SHA256


def test_levels_can_be_read_back_from_the_bytes() -> None:
    from sklearn.datasets import load_digits

    images = digits.load_digits().images
    assert images.unique().numel() == 17 and images.max() == 255
    levels = (images.double() * 16 / 255).round().squeeze(1)
    torch.testing.assert_close(levels, torch.from_numpy(load_digits().images), rtol=0, atol=0)


def test_checksum_sees_a_changed_label(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits.load_digits()
    data.labels[5] += 1
    monkeypatch.setattr(digits, "load_digits", lambda: data)
    assert digits.checksum() != digits.SHA256
