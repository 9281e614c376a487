from __future__ import annotations

import pytest
import torch

from bench.data import preprocessing
from bench.data.sets import digits
from dydit.errors import InputError


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


def test_every_byte_survives_the_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    x = preprocessing.to_model(every)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert torch.equal(preprocessing.to_uint8(x), every)


def test_bytes_follow_the_published_protocol() -> None:
    x = torch.tensor([-9.0, -1.0, 0.0, 0.5, 1.0, 9.0])
    assert preprocessing.to_uint8(x).tolist() == [0, 0, 128, 191, 255, 255]  # 127.5 * 0.5 + 128 = 191.75, truncated


def test_unusable_values_are_refused() -> None:
    with pytest.raises(InputError, match=r"to_model takes torch\.uint8"):
        preprocessing.to_model(torch.zeros(1))
    with pytest.raises(InputError, match="floating-point"):
        preprocessing.to_uint8(torch.zeros(1, dtype=torch.uint8))
    with pytest.raises(InputError, match="NaN"):
        preprocessing.to_uint8(torch.tensor([0.0, torch.nan]))
