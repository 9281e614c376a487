"""CIFAR's own archives: the authors' bytes or nothing, read as Python 2 wrote them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from bench.data.sets import cifar
from dydit import InputError

Small = Callable[..., dict[str, bytes]]
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
FOLDER = "cifar-10-batches-py"


def batch(rows: int, seed: int, label_key: str = "labels") -> dict[str, object]:
    rng = np.random.default_rng(seed)
    return {
        "batch_label": "made in a test",
        "data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8),
        label_key: rng.integers(0, 10, rows).tolist(),
        "filenames": ["x.png"] * rows,
    }


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


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write(directory: Path, members: dict[str, bytes], folder: str = FOLDER) -> None:
    (directory / folder).mkdir(parents=True)
    for name, content in members.items():
        (directory / folder / name).write_bytes(content)


def pack(directory: Path, members: dict[str, bytes], name: str = "cifar-10-python.tar.gz", folder: str = FOLDER) -> str:
    """Write the archive; its MD5."""
    with tarfile.open(directory / name, "w:gz") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(f"{folder}/{member}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return md5((directory / name).read_bytes())


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Small:
    """Takes the authors' place: six small batches, or those given, whose MD5 sums torchvision shall expect."""

    def publish(**changed: bytes) -> dict[str, bytes]:
        names = [*TRAIN, "test_batch"]
        members = {name: pickle.dumps(batch(k + 1, k), protocol=3) for k, name in enumerate(names)}
        members |= {"batches.meta": pickle.dumps({"label_names": list("abcdefghij")}, protocol=3)} | changed
        monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5(members[name])] for name in TRAIN])
        monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5(members["test_batch"])]])
        monkeypatch.setitem(datasets.CIFAR10.meta, "md5", md5(members["batches.meta"]))
        return members

    return publish


def read(directory: Path, split: str = "test", name: str = "cifar10") -> tuple[torch.Tensor, torch.Tensor]:
    archive = cifar.read_archive(name, directory, split)
    assert archive is not None
    return archive


@pytest.mark.parametrize("packed", [True, False])
def test_the_training_batches_come_in_their_order(
    tmp_path: Path, packed: bool, published: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = published()
    if packed:
        in_another_order = dict(reversed(members.items()))
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", pack(tmp_path, in_another_order))
    else:
        write(tmp_path, members)
    before = sorted(tmp_path.rglob("*"))
    images, labels = read(tmp_path, "train")
    batches = [batch(number + 1, number) for number in range(5)]
    wanted = np.concatenate([part["data"] for part in batches])
    assert images.dtype == torch.uint8 and images.shape == (15, 3, 32, 32)
    assert np.array_equal(images.flatten(1).numpy(), wanted)
    assert images[2, 1, 5, 7] == wanted[2, 1024 + 5 * 32 + 7]  # red, green, blue planes of rows
    assert labels.dtype == torch.int64
    assert labels.tolist() == [label for part in batches for label in part["labels"]]
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked beside it


def test_cifar100_has_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = batch(4, 0, "fine_labels") | {"coarse_labels": [0] * 4}
    members = {name: pickle.dumps(content, protocol=3) for name in ("train", "test")}
    members["meta"] = pickle.dumps({"fine_label_names": ["a"] * 100}, protocol=3)
    for name in ("train", "test"):
        monkeypatch.setattr(datasets.CIFAR100, f"{name}_list", [[name, md5(members[name])]])
    monkeypatch.setitem(datasets.CIFAR100.meta, "md5", md5(members["meta"]))
    write(tmp_path, members, "cifar-100-python")
    assert read(tmp_path, name="cifar100")[1].tolist() == content["fine_labels"]


def test_a_pickle_of_python_2(tmp_path: Path, published: Small) -> None:
    pixels = np.asarray(batch(3, 1)["data"])
    write(tmp_path, published(test_batch=python2_batch(pixels, [7, 0, 9])))
    images, labels = read(tmp_path)
    assert np.array_equal(images.flatten(1).numpy(), pixels) and labels.tolist() == [7, 0, 9]


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert cifar.read_archive("cifar10", tmp_path, "train") is None
    assert cifar.read_archive("food101", tmp_path, "train") is None


def test_another_archive_is_refused_with_both_checksums(tmp_path: Path, published: Small) -> None:
    found = pack(tmp_path, published())
    with pytest.raises(InputError, match=rf"python\.tar\.gz: MD5 {found}, .*c58f30108f718f92721af3b95e74349a"):
        read(tmp_path)


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["test_batch", "data_batch_3", "batches.meta"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, name: str, published: Small) -> None:
    attack = pickle.dumps({"extra": Attack(tmp_path / "made")}, protocol=3)
    write(tmp_path, published() | {name: attack})
    with pytest.raises(InputError, match=f"{name}: MD5 {md5(attack)}, the authors' file has"):
        read(tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_damaged_and_a_missing_batch_are_named(tmp_path: Path, published: Small) -> None:
    write(tmp_path, published())
    path = tmp_path / FOLDER / "data_batch_4"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"data_batch_4: MD5 .*download it again"):
        read(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="data_batch_4: no such file"):
        read(tmp_path)


def test_no_room_to_unpack_is_said(tmp_path: Path, published: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", pack(tmp_path, published()))
    monkeypatch.setattr("shutil.unpack_archive", full)
    with pytest.raises(InputError, match=r"cannot be unpacked in .* \(No space left on device\); .*TMPDIR"):
        read(tmp_path)
