"""The digits, and local folders and archives in the layouts of their authors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import preprocessing
from bench.data.sets import cifar, digits
from bench.data.sets.opening import locate, open_dataset, open_stream
from dydit import InputError

Stacked = Callable[[Any], np.ndarray]
Pictures = Callable[..., list[Image.Image]]
Folders = Callable[..., list[Image.Image]]


@pytest.fixture
def write_folders(random_pictures: Pictures) -> Folders:
    """Write a folder a class with one picture of `side` pixels each, which are returned."""

    def write(directory: Path, classes: int, side: int = 6) -> list[Image.Image]:
        drawn = random_pictures(classes, side, side)
        for number, picture in enumerate(drawn):
            (directory / f"class {number:03d}").mkdir(parents=True)
            picture.save(directory / f"class {number:03d}" / "0.png")
        return drawn

    return write


# Digits


def test_digits_need_no_files() -> None:
    data = digits.load_digits()
    opened = open_dataset("digits")
    assert (opened.name, opened.size, opened.preprocessing) == ("digits/all", (8, 8), "native")
    assert torch.equal(torch.stack(list(opened)), data.images.expand(-1, 3, -1, -1))
    assert torch.equal(opened.labels, data.labels)


def test_digits_at_half_the_resolution_are_means_of_four() -> None:
    opened = open_dataset("digits", resolution=4)
    assert opened.size == (4, 4) and opened.preprocessing == "adm-centre-crop"
    bytes_ = digits.load_digits().images.int()
    along_rows = (bytes_[..., 0::2] + bytes_[..., 1::2] + 1) // 2  # Pillow rounds after each axis
    means = (along_rows[..., 0::2, :] + along_rows[..., 1::2, :] + 1) // 2
    assert torch.equal(torch.stack(list(opened)), means.expand(-1, 3, -1, -1).byte())
    assert torch.equal(opened.labels, digits.load_digits().labels)


def test_digits_as_a_stream() -> None:
    opened, streamed = open_dataset("digits"), open_stream("digits")
    assert (streamed.size, len(streamed), streamed.preprocessing) == ((8, 8), 1797, "native")
    assert torch.equal(torch.stack(list(streamed)), torch.stack(list(opened)))


# Folders and archives


def test_folders_of_classes(tmp_path: Path, stacked: Stacked, write_folders: Folders) -> None:
    drawn = write_folders(tmp_path / "artbench10" / "test", 10)
    opened = open_dataset("artbench10", "test", data_root=tmp_path, resolution=6)
    assert (opened.name, opened.size) == ("artbench10/test", (6, 6))
    assert np.array_equal(stacked(opened), np.stack(drawn))
    assert opened.labels.tolist() == list(range(10))
    assert np.array_equal(stacked(open_stream("artbench10", "test", data_root=tmp_path, resolution=6)), np.stack(drawn))


def test_folders_of_a_native_set(tmp_path: Path, stacked: Stacked, write_folders: Folders) -> None:
    drawn = write_folders(tmp_path / "test", 10, side=32)
    assert np.array_equal(stacked(open_dataset("cifar10", "test", data_root=tmp_path)), np.stack(drawn))
    halved = open_dataset("cifar10", "test", data_root=tmp_path, resolution=16)
    assert np.array_equal(stacked(halved), np.stack([preprocessing.centre_crop(picture, 16) for picture in drawn]))
    assert halved.labels.tolist() == list(range(10)) and halved.preprocessing == "adm-centre-crop"
    write_folders(tmp_path / "train", 10, side=31)
    with pytest.raises(InputError, match="31x31 pixels; CIFAR-10 has 32x32"):
        open_dataset("cifar10", data_root=tmp_path)


def test_another_number_of_classes_is_refused(tmp_path: Path, write_folders: Folders) -> None:
    write_folders(tmp_path / "train", 9)
    with pytest.raises(InputError, match="9 class folders"):
        open_dataset("artbench10", data_root=tmp_path)


def test_a_flat_folder_of_a_set_without_classes(tmp_path: Path, random_pictures: Pictures) -> None:
    (tmp_path / "train").mkdir()
    random_pictures(1, 20, 30)[0].save(tmp_path / "train" / "1.jpg")
    opened = open_dataset("coco2017", "train", data_root=tmp_path, resolution=10)
    assert len(opened) == 1 and opened.size == (10, 10) and not opened.has_labels


def test_cifars_own_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))
    archives = {("cifar10", tmp_path, "test"): (pixels, torch.tensor([7, 0, 9]))}
    monkeypatch.setattr(cifar, "read_archive", lambda *asked: archives[asked])
    opened = open_dataset("cifar10", "test", data_root=tmp_path)
    assert torch.equal(torch.stack(list(opened)), pixels)
    assert opened.labels.tolist() == [7, 0, 9] and opened.name == "cifar10/test"


def test_nothing_there_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data/train-\*\.parquet.*cifar-10-python\.tar\.gz and the folder train"):
        open_dataset("cifar10", data_root=tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_dataset("cifar10", data_root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ("cifar10/plain_text/test-0.parquet", "cifar10/plain_text"),
        ("cifar-10-python.tar.gz", "cifar-10-python.tar.gz"),
        ("cifar10/cifar-10-batches-py/test_batch", "cifar10/cifar-10-batches-py"),
        ("test/cat/0.png", "test"),
        ("train/cat/0.png", None),
    ],
)
def test_where_a_split_lies(tmp_path: Path, made: str, found: str | None) -> None:
    (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).touch()
    assert locate("cifar10", "test", tmp_path) == (None if found is None else tmp_path / found)
