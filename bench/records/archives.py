"""Arrays in .npy and .npz files: nothing is believed that a header claims, and no object is unpickled.

A member is read where its header claims as many bytes as there are, and an archive where its members have names of
their own. Errors are those of the formats, of any kind: a caller turns them into one line that names its file.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dydit import InputError, first_line

LARGEST = 2**33
"""Bytes of one array in a file: a claim above it is a damaged file."""


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive for reading.

    Raises:
        OSError: the file cannot be read.
        ValueError: two members have one name, of which one would hide the other.
        zipfile.BadZipFile: no archive.
    """
    if path.exists() and not path.is_file():
        raise ValueError("a folder, a device or a pipe, and not a file")
    with zipfile.ZipFile(path) as archive:
        if twice := [name for name, count in Counter(archive.namelist()).items() if count > 1]:
            raise ValueError(f"two members are called {twice[0][:60]}")
        yield archive


def array_names(path: Path) -> set[str]:
    """The names of the arrays in a .npz; none where the file is no archive or cannot be read."""
    try:
        with open_archive(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception:  # damaged archives raise many kinds
        return set()


def read_arrays(path: Path, *names: str, remedy: str) -> list[NDArray[Any]]:
    """The arrays of these names in a .npz.

    Raises:
        InputError: a file that is not whole, or lacks one; it ends with the `remedy`.
    """
    try:
        with open_archive(path) as archive:
            return [read_member(archive, f"{name}.npy") for name in names]
    except Exception as error:  # damaged bytes raise many kinds; a user needs one line
        raise InputError(f"{path}: no whole .npz ({first_line(error)}); {remedy}") from None


def read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """The array of a member whose header `member_header` accepts.

    Raises:
        KeyError: no such member.
        ValueError: as `member_header`, or an array of objects.
    """
    member_header(archive, name)
    with archive.open(name) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def member_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a member that holds as many bytes as they need, at most `LARGEST`.

    Raises:
        KeyError: no such member.
        ValueError: a header that claims other sizes than there are, or too large an array.
    """
    member = archive.getinfo(name)
    with archive.open(member) as file:
        return _checked_header(file, name, member.file_size)


def read_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file.

    Raises:
        OSError: the file cannot be read.
        ValueError: as `member_header`, or an array of objects.
    """
    with path.open("rb") as file:
        _checked_header(file, path.name, path.stat().st_size)
        file.seek(0)
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of a .npy; the file is left at the first value."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"a .npy of version {version}")


def _checked_header(file: IO[bytes], name: str, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the .npy that a file of `size` bytes holds, see `member_header`."""
    shape, _, dtype = array_header(file)
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != there:
        raise ValueError(f"{name} claims {dtype} {shape}, but has {there} bytes")
    if claimed > LARGEST:
        raise ValueError(f"{name} claims {claimed:,} bytes, more than {LARGEST:,}")
    return shape, dtype
