"""Image sets from files: shards of `bench generate`, ADM's .npz, folders of pictures."""

from __future__ import annotations

import functools
import math
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data import shards
from bench.data.image_set import Images
from bench.data.preprocessing import NATIVE, PREPROCESSING, SUFFIXES, centre_crop, decode, size_of, to_tensor
from bench.machine import track
from dydit import InputError

_PIECE = 2**24  # bytes read at a time while a file is checked


# Shards of `bench generate`


class _Shards:
    """Reader of a directory of shards that keeps one unit in memory: reading in order opens every unit once."""

    def __init__(self, directory: Path, manifest: shards.Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.cached: tuple[int, NDArray[Any]] | None = None  # number and images of the unit read last

    def read(self, index: int) -> Tensor:
        number, row = divmod(index, self.manifest.unit)
        if self.cached is None or self.cached[0] != number:
            self.cached = number, shards.load_unit(self.directory, self.manifest, number)[0]
        return to_tensor(self.cached[1][row])

    def labels(self) -> Tensor:
        units = track(range(self.manifest.units), "reading labels")
        parts = [shards.load_unit(self.directory, self.manifest, number)[1] for number in units]
        return torch.from_numpy(np.concatenate(parts)).to(torch.int64)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"cached": None}


def open_shards(directory: Path, name: str) -> Images:
    """Images of a directory written by `python -m bench generate`, with their classes.

    Raises:
        InputError: a manifest that cannot be used, or units missing.
    """
    manifest = shards.read_manifest(directory)
    if missing := shards.missing_units(directory, manifest):
        raise InputError(
            f"{name}: {len(missing)} of {manifest.units} units are missing, the first is {missing[0]}; "
            "run the same `python -m bench generate` again, it goes on where it stopped"
        )
    height, width, _ = manifest.shape
    reader = _Shards(directory.resolve(), manifest)
    return Images(name, (height, width), manifest.count, reader.read, reader.labels)


# Files in ADM's .npz layout


@dataclass(frozen=True)
class _StoredArray:
    """Images uint8 (N, H, W, C), uncompressed in a file from `offset` on: mapped into memory, never read whole."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    fortran: bool

    @functools.cached_property
    def array(self) -> NDArray[Any]:
        order = "F" if self.fortran else "C"
        return np.memmap(self.path, np.uint8, "r", self.offset, self.shape, order)  # type: ignore[call-overload,no-any-return]

    def read(self, index: int) -> Tensor:
        return to_tensor(self.array[index])

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled as all of its bytes; the other process maps the file itself.
        return {key: value for key, value in self.__dict__.items() if key != "array"}


@dataclass(frozen=True)
class _LoadedArray:
    """Images uint8 (N, H, W, C) in memory."""

    array: NDArray[Any]

    def read(self, index: int) -> Tensor:
        return to_tensor(self.array[index])


def open_npz(path: Path, name: str) -> Images:
    """Images of a .npz file in ADM's layout; its checksums are compared piece by piece before anything is used.

    Raises:
        InputError: a file that is not whole, or arrays of another dtype or shape.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("arr_0.npy")
            with archive.open(member) as file:
                shape, fortran, dtype = shards.array_header(file)
                header = file.tell()
            if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
                raise InputError(f"{name}: arr_0 is {dtype} {shape}; it must be uint8 (N, H, W, 1 or 3), none empty")
            labels = _npz_labels(archive, shape[0], name)
            if member.file_size - header != math.prod(shape):
                raise ValueError(f"arr_0 is {shape}, but has {member.file_size - header} bytes")
            reader: _StoredArray | _LoadedArray
            if member.compress_type == zipfile.ZIP_STORED:
                _verify(archive, member, name)
                reader = _StoredArray(path.resolve(), _data_start(path, member) + header, shape, fortran)
            else:
                reader = _LoadedArray(_member(archive, "arr_0.npy"))
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise many kinds
        reason = " ".join(str(error).strip("\"'").split()) or type(error).__name__
        raise InputError(f"{name}: no whole .npz with an array arr_0 ({reason}); write it again") from None
    return Images(name, (shape[1], shape[2]), shape[0], reader.read, labels)


def _npz_labels(archive: zipfile.ZipFile, count: int, name: str) -> Tensor | None:
    if "arr_1.npy" not in archive.namelist():
        return None
    labels = _member(archive, "arr_1.npy")
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise InputError(f"{name}: arr_1 is {labels.dtype} {labels.shape}; it must be integer labels ({count},)")
    return torch.from_numpy(labels.astype(np.int64))


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _verify(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> None:
    """Read a member to its end, where zipfile compares the CRC-32 and raises BadZipFile."""
    with archive.open(member) as file:
        for _ in track(range(0, member.file_size, _PIECE), f"checking {name}"):
            file.read(_PIECE)


def _data_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: after its local header, name and extra field (PKZIP, section 4.3.7)."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name_length, extra_length = struct.unpack("<26xHH", file.read(30))
    return int(member.header_offset + 30 + name_length + extra_length)


# Folders of pictures


@dataclass(frozen=True)
class _Folder:
    """Reader of picture files: cut to `crop` pixels, or required to be of `size` (H, W) where there is no crop."""

    files: tuple[Path, ...]
    size: tuple[int, int]
    crop: int | None

    def read(self, index: int) -> Tensor:
        path = self.files[index]
        image = decode(path, str(path))
        if self.crop is not None:
            image = centre_crop(image, self.crop)
        elif (image.height, image.width) != self.size:
            raise InputError(f"{path}: changed to {image.height}x{image.width} pixels since the folder was opened")
        return to_tensor(image)


def open_folder(directory: Path, name: str, resolution: int | None = None, classes: int | None = None) -> Images:
    """Pictures of a folder and its sub-folders in the order of their relative paths; the header of each is checked.

    Hidden files are left out.

    Args:
        directory: the folder.
        name: for tables.
        resolution: side in pixels to which `bench.data.preprocessing.centre_crop` brings every picture; None: all must
            have one size.
        classes: number of sub-folders that there must be, one per class; label k is the k-th of them by name.

    Raises:
        InputError: no pictures, one that is broken (named), mixed resolutions (two named), another number of classes.
    """
    files = _picture_files(directory)
    if not files:
        raise InputError(f"{name}: no PNG, JPEG, WebP or BMP files in this folder; name the folder that holds them")
    labels = None if classes is None else _folder_labels(directory, files, classes)
    size = None if resolution is None else (resolution, resolution)
    for path in track(files, f"checking {name}"):
        own = size_of(path)
        size = size or own
        if resolution is None and own != size:
            raise InputError(
                f"{files[0]} is {size[0]}x{size[1]} pixels, {path} is {own[0]}x{own[1]}; "
                "all images of a set must have one resolution, give the one to crop them to"
            )
    assert size is not None
    reader = _Folder(tuple(files), size, resolution)
    preprocessing = NATIVE if resolution is None else PREPROCESSING
    return Images(name, size, len(files), reader.read, labels, preprocessing)


def _picture_files(directory: Path) -> list[Path]:
    files = []
    # Links are followed: a class folder may be one.
    for parent, folders, names in os.walk(directory, followlinks=True):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        files += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(files, key=lambda path: path.relative_to(directory).as_posix())


def _folder_labels(directory: Path, files: list[Path], classes: int) -> Tensor:
    parents = [path.relative_to(directory).parts[:-1] for path in files]
    if () in parents:
        raise InputError(
            f"{files[parents.index(())]}: lies in no class folder; sort the pictures into one folder per class"
        )
    numbers = {name: number for number, name in enumerate(sorted({parent[0] for parent in parents}))}
    if len(numbers) != classes:
        raise InputError(f"{directory}: {len(numbers)} class folders with pictures; this data set has {classes}")
    return torch.tensor([numbers[parent[0]] for parent in parents])
