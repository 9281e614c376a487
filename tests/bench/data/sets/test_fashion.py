"""Fashion-MNIST from its four files: the published bytes or nothing, padded to 32 x 32, wherever they lie."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import mnist

from bench.data.sets import fashion
from bench.data.sets.opening import locate, open_dataset
from dydit import InputError

ROWS = {"train": 7, "test": 3}


def idx_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for split, ((pixels, _), (labels, _)) in fashion._FILES.items():
        count = ROWS[split]
        files[pixels] = struct.pack(">4B3i", 0, 0, 8, 3, count, 28, 28) + rng.bytes(count * 28 * 28)
        files[labels] = struct.pack(">4Bi", 0, 0, 8, 1, count) + bytes(rng.integers(0, 10, count).tolist())
    return files


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files that stand for the published ones, and no copy of Debian's."""
    files = idx_files()
    sums = {
        split: tuple((name, hashlib.sha256(files[name]).hexdigest()) for name, _ in pair)
        for split, pair in fashion._FILES.items()
    }
    monkeypatch.setattr(fashion, "_FILES", sums)
    monkeypatch.setattr(fashion, "COUNTS", ROWS)
    monkeypatch.setattr(fashion, "DEBIAN", Path("/nowhere/fashion-mnist"))
    return files


def write(directory: Path, files: dict[str, bytes], compressed: bool = True) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, bytes_ in files.items():
        if compressed:
            (directory / f"{name}.gz").write_bytes(gzip.compress(bytes_))
        else:
            (directory / name).write_bytes(bytes_)
    return directory


@pytest.mark.parametrize("folder", [".", "fashion", "FashionMNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_files_are_found_and_read_as_torchvision_reads_them(
    tmp_path: Path, content: dict[str, bytes], folder: str, compressed: bool
) -> None:
    write(tmp_path / folder, content, compressed)
    for split, count in ROWS.items():
        images, labels = fashion.load_fashion(split, tmp_path)
        (pixels, _), (classes, _) = fashion._FILES[split]
        raw = write(tmp_path / "plain", content, compressed=False)
        assert images.shape == (count, 1, 32, 32) and images.dtype == torch.uint8
        assert torch.equal(images[:, 0, 2:30, 2:30], mnist.read_image_file(str(raw / pixels)))
        assert torch.equal(labels, mnist.read_label_file(str(raw / classes)))
        border = images.clone()
        border[:, :, 2:30, 2:30] = 0
        assert not border.any()
        fashion.check_published(images, labels, split, "made")
        opened = open_dataset("fashion", split, data_root=tmp_path)
        assert opened.size == (32, 32) and torch.equal(opened.labels, labels)
        assert torch.equal(torch.stack(list(opened)), images.expand(-1, 3, -1, -1))
        assert locate("fashion", split, tmp_path) == (tmp_path / folder)


def test_debians_copy_is_found_without_a_data_root(
    tmp_path: Path, content: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion, "DEBIAN", write(tmp_path, content))
    assert len(open_dataset("fashion", "test")) == ROWS["test"]


def test_a_data_root_without_files_names_the_three_ways_to_get_them(tmp_path: Path, content: dict[str, bytes]) -> None:
    for root in (None, tmp_path):
        with pytest.raises(InputError) as caught:
            fashion.load_fashion("train", root)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        for way in ("four IDX files", "dataset-fashion-mnist", "zalando-datasets/fashion_mnist"):
            assert way in message
    with pytest.raises(InputError, match="the four IDX files and the folder train"):
        open_dataset("fashion", "train", data_root=tmp_path)


def test_a_missing_or_foreign_file_among_the_four_is_named(tmp_path: Path, content: dict[str, bytes]) -> None:
    (_, _), (labels, _) = fashion._FILES["train"]
    write(tmp_path, {name: bytes_ for name, bytes_ in content.items() if name != labels})
    with pytest.raises(InputError, match=f"holds no {labels} and no {labels}.gz"):
        fashion.load_fashion("train", tmp_path)
    write(tmp_path, {labels: content[labels] + b"\0"})
    with pytest.raises(InputError, match=f"{labels}.gz has SHA-256 .*, expected .*fetch it again"):
        fashion.load_fashion("train", tmp_path)
    (tmp_path / f"{labels}.gz").write_bytes(gzip.compress(content[labels])[:-9])
    with pytest.raises(InputError, match=f"{labels}.gz cannot be read"):
        fashion.load_fashion("train", tmp_path)
    with pytest.raises(InputError, match="no split 'validation'"):
        fashion.load_fashion("validation", tmp_path)


def test_images_from_elsewhere_must_be_the_published_ones(tmp_path: Path, content: dict[str, bytes]) -> None:
    images, labels = fashion.load_fashion("train", write(tmp_path, content))
    for other in ((images.flip(0), labels), (images[:-1], labels[:-1]), (images, labels.roll(1))):
        with pytest.raises(InputError, match="the hub: not the published images and labels of train-"):
            fashion.check_published(*other, "train", "the hub")


def test_pictures_of_the_stored_size_are_padded(tmp_path: Path, content: dict[str, bytes]) -> None:
    images, labels = fashion.load_fashion("train", write(tmp_path / "idx", content))
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / "folders" / "train" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0, 2:30, 2:30].numpy()).save(folder / f"{index}.png")
    for label in range(10):
        (tmp_path / "folders" / "train" / str(label)).mkdir(exist_ok=True)
        if not any((tmp_path / "folders" / "train" / str(label)).iterdir()):
            Image.new("L", (28, 28)).save(tmp_path / "folders" / "train" / str(label) / "black.png")
    opened = open_dataset("fashion", "train", data_root=tmp_path / "folders")
    assert opened.size == (32, 32)
    assert {image.numpy().tobytes() for image in opened} >= {
        image.expand(3, -1, -1).numpy().tobytes() for image in images
    }
