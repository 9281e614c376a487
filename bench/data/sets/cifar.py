"""CIFAR-10 and CIFAR-100 as their authors distribute them, in a .tar.gz of pickled batches, read by torchvision.

A pickle can run any code when it is read: a batch is opened only once it has the MD5 that the authors' file has.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dydit import InputError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10


def archive_and_folder(name: str) -> tuple[str, str] | None:
    """File name of the authors' archive of a data set, and of the folder inside it; None where there is no archive."""
    reader = _reader(name)
    return None if reader is None else (reader.filename, reader.base_folder)


def read_archive(name: str, directory: Path, split: str) -> tuple[Tensor, Tensor] | None:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of a split, in the archive's order.

    Args:
        name: of the data set.
        directory: where the archive lies, or the folder that was unpacked from it; the archive is preferred. It is
            unpacked into a temporary directory (190 MB) and nothing is left of that.
        split: `train` or `test`.

    Returns:
        None where there is neither, or where the data set has no such archive.

    Raises:
        InputError: a file that is missing, or that has another MD5 than the authors' (both are shown); an archive that
            cannot be unpacked.
    """
    reader = _reader(name)
    if reader is None:
        return None
    packed, folder = directory / reader.filename, directory / reader.base_folder
    if not packed.is_file():
        return _read(reader, directory, split) if folder.is_dir() else None
    _check_md5(packed, reader.tgz_md5)
    with tempfile.TemporaryDirectory() as unpacked:
        try:
            shutil.unpack_archive(packed, unpacked, filter="data")
        except OSError as error:
            raise InputError(
                f"{packed}: cannot be unpacked in {tempfile.gettempdir()} ({error.strerror}); "
                "name a directory with 200 MB of space in the environment variable TMPDIR"
            ) from error
        return _read(reader, Path(unpacked), split)


def _reader(name: str) -> type[CIFAR10] | None:
    """torchvision's reader of a data set, which knows the names and checksums of the files."""
    if name not in ("cifar10", "cifar100"):
        return None
    from torchvision import datasets

    reader: type[CIFAR10] = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    return reader


def _read(reader: type[CIFAR10], directory: Path, split: str) -> tuple[Tensor, Tensor]:
    # torchvision compares the checksums of all these, too, before it opens one, but does not say which is wrong.
    for file, md5 in (*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])):
        _check_md5(directory / reader.base_folder / file, md5)
    loaded = reader(directory, train=split == "train")
    return torch.from_numpy(loaded.data).permute(0, 3, 1, 2), torch.tensor(loaded.targets)


def _check_md5(path: Path, md5: str) -> None:
    from torchvision.datasets.utils import calculate_md5

    if not path.is_file():
        raise InputError(f"{path}: no such file; unpack the authors' archive again, the whole of it")
    found = calculate_md5(path)
    if found != md5:
        raise InputError(f"{path}: MD5 {found}, the authors' file has {md5}; download it again")
