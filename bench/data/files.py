"""Image sets from files: shards of `bench generate` and ADM's .npz."""

from __future__ import annotations

import functools
import math
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
from bench.data.preprocessing import to_tensor
from bench.machine import track
from bench.records import array_header, array_names, open_archive, read_member
from dydit import InputError, first_line
from dydit.checkpoint.files import another_kind

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
        with open_archive(path) as archive:
            member = archive.getinfo("arr_0.npy")
            with archive.open(member) as file:
                shape, fortran, dtype = array_header(file)
                header = file.tell()
            if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
                raise InputError(f"{name}: arr_0 is {dtype} {shape}; it must be uint8 (N, H, W, 1 or 3), none empty")
            labelled = "arr_1.npy" in archive.namelist()
            if member.file_size - header != math.prod(shape):
                raise ValueError(f"arr_0 is {shape}, but has {member.file_size - header} bytes")
            reader: _StoredArray | _LoadedArray
            if member.compress_type == zipfile.ZIP_STORED:
                _verify(archive, member, name)
                reader = _StoredArray(path.resolve(), _data_start(path, member) + header, shape, fortran)
            else:
                reader = _LoadedArray(read_member(archive, "arr_0.npy"))
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise many kinds
        raise InputError(f"{name}: {_what_it_is(path, error)}") from None
    labels = functools.partial(_npz_labels, path, shape[0], name) if labelled else None
    return Images(name, (shape[1], shape[2]), shape[0], reader.read, labels)


def _what_it_is(path: Path, error: Exception) -> str:
    """Why a file holds no images, and the next step."""
    steps = {
        "a NumPy array (.npy)": "store it with np.savez(FILE, arr_0=images) and give that",
        "a tar archive": "unpack it and give the folder",
        "a gzip archive": "unpack it and give the folder",
        "a zip archive": "unpack it and give the folder",
    }
    try:
        kind = another_kind(path)
    except OSError:
        kind = None
    if kind == "NumPy arrays (.npz)":
        names = sorted(array_names(path))
        if names and "arr_0" not in names:
            if "mu" in names:
                return "holds statistics (mu, sigma), not images; give it as --reference"
            return f"holds arrays {', '.join(names[:5])}, none of them arr_0; store images as arr_0"
    elif kind is not None and kind.endswith("picture"):
        return f"{kind}, one image; give the folder that holds them"
    elif kind is not None:
        return f"{kind}, not images in ADM's layout; {steps.get(kind, 'give a folder of pictures or a .npz')}"
    if path.is_file() and path.read_bytes()[:1] == b"\x80":
        return (
            "a Python pickle, which could run code and is not read; store the images with np.savez(FILE, arr_0=images)"
        )
    if _is_text(path):
        return "a text file, not images; give a folder of pictures or a .npz"
    reason = " ".join(str(error).strip("\"'").split()) or type(error).__name__
    return f"no whole .npz with an array arr_0 ({reason[:200]}); write it again"


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(512)
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(text) and all(each.isprintable() or each.isspace() for each in text)


def _npz_labels(path: Path, count: int, name: str) -> Tensor:
    """The labels of ADM's layout, read where they are used: no metric needs them."""
    try:
        with open_archive(path) as archive:
            labels = read_member(archive, "arr_1.npy")
    except Exception as error:  # damaged bytes raise many kinds
        raise InputError(f"{name}: arr_1 holds no labels ({first_line(error)})") from None
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise InputError(f"{name}: arr_1 is {labels.dtype} {labels.shape}; it must be integer labels ({count},)")
    return torch.from_numpy(labels.astype(np.int64))


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
