"""CIFAR-10 and CIFAR-100 as their authors distribute them: pickled Python 2 dictionaries in a .tar.gz.

A pickle can run any code when it is read. Here it may build numpy arrays and nothing else.

Layout and names: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dydit import InputError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Archive:
    """One of the two: its file and the file's MD5, the folder inside it, and what the folder holds.

    `batches` gives the members of each split, in order; `label_key` is where a member keeps its labels.
    """

    file: str
    md5: str
    folder: str
    batches: Mapping[str, tuple[str, ...]]
    label_key: str


# The MD5 sums are those that the authors' page prints, and torchvision checks.
ARCHIVES: dict[str, Archive] = {
    "cifar10": Archive(
        file="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        batches={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        label_key="labels",
    ),
    "cifar100": Archive(
        file="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        batches={"train": ("train",), "test": ("test",)},
        label_key="fine_labels",
    ),
}


def read_archive(archive: Archive, directory: Path, split: str) -> tuple[Tensor, Tensor] | None:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of a split, in the archive's order.

    Args:
        archive: in `ARCHIVES`.
        directory: where the archive lies, or the folder that was unpacked from it; the archive goes first.
        split: `train` or `test`.

    Returns:
        None where neither is there.

    Raises:
        InputError: another MD5 than the authors' (both shown), a member that is missing, damaged, or that would run
            code.
    """
    packed, folder = directory / archive.file, directory / archive.folder
    if packed.is_file():
        members = _unpack(packed, archive, split)
    elif folder.is_dir():
        members = {name: _read_file(folder / name) for name in archive.batches[split]}
    else:
        return None
    shown = packed if packed.is_file() else folder
    batches = [_batch(content, archive.label_key, f"{shown}, {name}") for name, content in members.items()]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def _unpack(path: Path, archive: Archive, split: str) -> dict[str, bytes]:
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        raise InputError(f"{path}: MD5 {md5}, the authors' file has {archive.md5}; download it again")
    with tarfile.open(path, "r:gz") as tar:
        return {name: _tar_member(tar, path, f"{archive.folder}/{name}") for name in archive.batches[split]}


def _tar_member(tar: tarfile.TarFile, path: Path, name: str) -> bytes:
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise InputError(f"{path}: no member {name}; download the archive again")
    return file.read()


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); unpack the archive again") from error


def _batch(content: bytes, label_key: str, where: str) -> tuple[Tensor, Tensor]:
    """Images and labels of one member."""
    try:
        # Python 2 wrote its strings as bytes, which latin-1 carries through unchanged.
        loaded = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
        fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in loaded.items()}
        pixels, labels = np.asarray(fields["data"]), np.asarray(fields[label_key])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except Exception as error:  # broken pickles raise whatever their bytes provoke
        raise InputError(f"{where}: not a whole batch of CIFAR ({error!r}); download the archive again") from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,) or labels.shape != pixels.shape[:1]:
        raise InputError(
            f"{where}: data is {pixels.dtype} {pixels.shape} with labels {labels.shape}; expected uint8 (n, {_PIXELS}) "
            "and (n,), download the archive again"
        )
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: labels are {labels.dtype}; expected integers, download the archive again")
    images = torch.from_numpy(np.array(pixels)).reshape(-1, 3, 32, 32)  # red plane, green plane, blue plane
    return images, torch.from_numpy(labels.astype(np.int64))


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and plain Python values; any other name in the pickle is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.zeros(0, np.uint8).__reduce__()[0]
        allowed = {
            # numpy.core is numpy._core since numpy 2; the old name would warn when it is imported.
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise InputError(f"the pickle names {module}.{name}, which is no array; do not use this file")
        return allowed[module, name]
