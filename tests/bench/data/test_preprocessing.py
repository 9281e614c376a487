"""Decoding, and ADM's centre crop against hand-computed pixels and Pillow's own steps."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling

from bench.data import preprocessing
from dydit import InputError


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_a_square_of_the_size_is_unchanged() -> None:
    image = random_image(16, 16)
    assert np.array_equal(pixels(preprocessing.centre_crop(image, 16)), pixels(image))


@pytest.mark.parametrize(("side", "block"), [(4, 2), (8, 4)])  # one halving and two
def test_halving_takes_the_mean_of_blocks(side: int, block: int) -> None:
    wanted = np.array([[10, 20], [30, 200]])
    image = np.kron(wanted, np.ones((block, block), int))
    image[::2, ::2] -= 4  # in every 2x2 block one pixel goes down and one up: its mean stays
    image[1::2, 1::2] += 4
    crop = preprocessing.centre_crop(Image.fromarray(image.astype(np.uint8)), 2)
    assert np.array_equal(pixels(crop), wanted)


@pytest.mark.parametrize("width", [4, 5])
def test_the_centre_is_cut_with_the_half_rounded_down(width: int) -> None:
    image = random_image(width, 2)
    assert np.array_equal(pixels(preprocessing.centre_crop(image, 2)), pixels(image)[:, 1:3])
    turned = image.transpose(Image.Transpose.TRANSPOSE)
    assert np.array_equal(pixels(preprocessing.centre_crop(turned, 2)), pixels(turned)[1:3, :])


def test_steps_of_a_large_picture() -> None:
    image = random_image(50, 37)
    halved = image.resize((25, 18), Resampling.BOX).resize((12, 9), Resampling.BOX)  # 37 and 18 are at least 2 * 9
    assert np.array_equal(pixels(preprocessing.centre_crop(image, 9)), pixels(halved)[:, 1:10])


def test_steps_between_two_halvings() -> None:
    image = random_image(7, 3)
    resized = image.resize((5, 2), Resampling.BICUBIC)  # 7 * 2 / 3 = 4.67
    assert np.array_equal(pixels(preprocessing.centre_crop(image, 2)), pixels(resized)[:, 1:3])


def test_smaller_pictures_are_enlarged() -> None:
    image = random_image(3, 3)
    assert np.array_equal(pixels(preprocessing.centre_crop(image, 8)), pixels(image.resize((8, 8), Resampling.BICUBIC)))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 24), st.integers(0, 255))
def test_every_picture_becomes_a_square_and_one_colour_stays(width: int, height: int, size: int, grey: int) -> None:
    crop = preprocessing.centre_crop(Image.new("RGB", (width, height), (grey, 7, 255)), size)
    assert crop.size == (size, size)
    assert (pixels(crop) == (grey, 7, 255)).all()


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        preprocessing.centre_crop(random_image(4, 4), 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_decoding_gives_rgb_from_every_mode() -> None:
    rgb = random_image(5, 4)
    assert np.array_equal(pixels(preprocessing.decode(encoded(rgb), "x")), pixels(rgb))
    grey = rgb.convert("L")
    assert np.array_equal(
        pixels(preprocessing.decode(encoded(grey), "x")), np.repeat(pixels(grey)[..., None], 3, axis=2)
    )
    palette = rgb.quantize(8)
    colours = pixels(palette.convert("RGB"))
    assert np.array_equal(pixels(preprocessing.decode(encoded(palette), "x")), colours)
    seen_through = encoded(palette, transparency=bytes(range(8)))
    assert np.array_equal(pixels(preprocessing.decode(seen_through, "x")), colours)
    with_alpha = rgb.copy()
    with_alpha.putalpha(9)
    assert np.array_equal(pixels(preprocessing.decode(encoded(with_alpha), "x")), pixels(rgb))
    assert preprocessing.decode(encoded(rgb.convert("CMYK"), "JPEG"), "x").mode == "RGB"


def test_orientation_tags_are_not_followed() -> None:
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    assert preprocessing.decode(encoded(random_image(6, 2), "JPEG", exif=exif), "x").size == (6, 2)


@pytest.mark.parametrize("keep", [0, 20, 100])
def test_broken_bytes_are_named(keep: int) -> None:
    with pytest.raises(InputError, match="the row: not a whole picture") as caught:
        preprocessing.decode(encoded(random_image(16, 16))[:keep], "the row")
    assert "BytesIO" not in str(caught.value) and "\n" not in str(caught.value)


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 999, np.uint16)).save(path)
    with pytest.raises(InputError, match=r"deep\.png.*8 bits"):
        preprocessing.decode(path, str(path))
    with pytest.raises(InputError, match=r"deep\.png.*8 bits"):
        preprocessing.size_of(path)


def test_tensors_are_channels_first() -> None:
    image = random_image(5, 4)
    tensor = preprocessing.to_tensor(image)
    assert tensor.dtype == torch.uint8 and tensor.shape == (3, 4, 5)
    assert np.array_equal(tensor[2].numpy(), pixels(image)[:, :, 2])


# Model values


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
