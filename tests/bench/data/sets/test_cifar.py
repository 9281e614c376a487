"""CIFAR's own archives: read as Python 2 wrote them, and never trusted."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.sets import cifar
from bench.data.sets.cifar import ARCHIVES, Archive
from dydit import InputError


def batch(rows: int, seed: int, label_key: bytes = b"labels") -> dict[bytes, object]:
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": b"made in a test",
        b"data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8),
        label_key: rng.integers(0, 10, rows).tolist(),
        b"filenames": [b"x.png"] * rows,
    }


def pack(directory: Path, archive: Archive, members: dict[str, bytes]) -> Archive:
    """Write the archive; returned with the MD5 it has."""
    path = directory / archive.file
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{archive.folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return replace(archive, md5=hashlib.md5(path.read_bytes()).hexdigest())


def test_the_training_batches_come_in_their_order(tmp_path: Path) -> None:
    batches = [batch(rows=number + 1, seed=number) for number in range(5)]
    members = {f"data_batch_{5 - k}": pickle.dumps(batches[4 - k], protocol=3) for k in range(5)}
    archive = pack(tmp_path, ARCHIVES["cifar10"], members)
    found = cifar.read_archive(archive, tmp_path, "train")
    assert found is not None
    images, labels = found
    wanted = np.concatenate([part[b"data"] for part in batches])
    assert images.dtype == torch.uint8 and images.shape == (15, 3, 32, 32)
    assert np.array_equal(images.flatten(1).numpy(), wanted)
    assert images[2, 1, 5, 7] == wanted[2, 1024 + 5 * 32 + 7]  # red, green, blue planes of rows
    assert labels.dtype == torch.int64
    assert labels.tolist() == [label for part in batches for label in part[b"labels"]]
    assert [path.name for path in tmp_path.iterdir()] == [archive.file]  # nothing was unpacked beside it


def test_cifar100_has_the_fine_labels(tmp_path: Path) -> None:
    content = batch(4, 0, b"fine_labels") | {b"coarse_labels": [0] * 4}
    archive = pack(tmp_path, ARCHIVES["cifar100"], {"test": pickle.dumps(content, protocol=3)})
    found = cifar.read_archive(archive, tmp_path, "test")
    assert found is not None and found[1].tolist() == content[b"fine_labels"]


def test_the_unpacked_folder(tmp_path: Path) -> None:
    content = batch(3, 0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=3))
    found = cifar.read_archive(ARCHIVES["cifar10"], tmp_path, "test")
    assert found is not None and np.array_equal(found[0].flatten(1).numpy(), content[b"data"])
    with pytest.raises(InputError, match=r"data_batch_1: cannot be read"):
        cifar.read_archive(ARCHIVES["cifar10"], tmp_path, "train")


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert cifar.read_archive(ARCHIVES["cifar10"], tmp_path, "train") is None


def python2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The dictionary as Python 2 with numpy 1 pickles it: 8-bit strings, and numpy's old module name."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    data = pixels.tobytes()
    dtype = b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R(K\x03" + short(b"|") + b"NNN"
    dtype += integer(-1) + integer(-1) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R"
    array += b"(K\x01" + integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"\x86" + dtype
    array += b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + short(b"data") + array + short(b"labels") + numbers + b"u."


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    content = batch(3, 1)
    pixels = np.asarray(content[b"data"])
    archive = pack(tmp_path, ARCHIVES["cifar10"], {"test_batch": python2_batch(pixels, [7, 0, 9])})
    found = cifar.read_archive(archive, tmp_path, "test")
    assert found is not None
    assert np.array_equal(found[0].flatten(1).numpy(), pixels) and found[1].tolist() == [7, 0, 9]


def test_another_md5_is_refused_with_both_shown(tmp_path: Path) -> None:
    archive = pack(tmp_path, ARCHIVES["cifar10"], {"test_batch": pickle.dumps(batch(3, 0), protocol=3)})
    with pytest.raises(InputError, match=f"MD5 {archive.md5}, .*c58f30108f718f92721af3b95e74349a"):
        cifar.read_archive(ARCHIVES["cifar10"], tmp_path, "test")


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    content = pickle.dumps(batch(3, 0) | {b"extra": Attack(tmp_path / "made")}, protocol=3)
    archive = pack(tmp_path, ARCHIVES["cifar10"], {"test_batch": content})
    with pytest.raises(InputError, match=r"test_batch: the pickle names \w+\.mkdir"):
        cifar.read_archive(archive, tmp_path, "test")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((3, 3072), np.float32)}, "float32"),
        ({b"data": np.zeros((3, 3000), np.uint8)}, "3000"),
        ({b"labels": [1, 2]}, "labels"),
        ({b"labels": [0.5, 1.0, 2.0]}, "labels are float64"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, change: dict[bytes, object], message: str) -> None:
    content = pickle.dumps(batch(3, 0) | change, protocol=3)
    archive = pack(tmp_path, ARCHIVES["cifar10"], {"test_batch": content})
    with pytest.raises(InputError, match=f"test_batch: .*{message}"):
        cifar.read_archive(archive, tmp_path, "test")


@pytest.mark.parametrize("content", [b"", b"\x80\x03}", pickle.dumps(batch(3, 0), protocol=3)[:500], pickle.dumps([])])
def test_broken_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    archive = pack(tmp_path, ARCHIVES["cifar10"], {"test_batch": content})
    with pytest.raises(InputError, match="test_batch: not a whole batch"):
        cifar.read_archive(archive, tmp_path, "test")


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    archive = pack(tmp_path, ARCHIVES["cifar10"], {"readme": b""})
    with pytest.raises(InputError, match="no member cifar-10-batches-py/data_batch_1"):
        cifar.read_archive(archive, tmp_path, "train")
