"""Image sets from folders of pictures: one walk for all commands, in which nothing is left out or counted twice."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.data.image_set import Images
from bench.data.preprocessing import (
    NATIVE,
    PREPROCESSING,
    centre_crop,
    check_crop,
    decode,
    foreign_suffixes,
    read_suffixes,
    size_of,
    to_tensor,
)
from bench.machine import status, track
from dydit import InputError

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"})
"""Names of parts of a data set, in lower case, which are not classes."""


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


def open_folder(
    directory: Path,
    name: str,
    resolution: int | None = None,
    *,
    labelled: bool = False,
    classes: int | None = None,
    least: int = 1,
) -> Images:
    """Pictures of a folder and its sub-folders in the order of their relative paths; the header of each is checked.

    Args:
        directory: the folder.
        name: for tables.
        resolution: side in pixels to which `bench.data.preprocessing.centre_crop` brings every picture; None: all must
            have one size.
        labelled: whether the sub-folders are classes, see `class_labels`, which a message then tells.
        classes: how many of them there must be; None: any number.
        least: shorter side in pixels that every picture must have.

    Raises:
        InputError: no pictures, one that is broken or too small (named), mixed resolutions (two named), another number
            of classes, or what `picture_files` refuses.
    """
    files = picture_files(directory)
    if not files:
        read = ", ".join(sorted(read_suffixes()))
        raise InputError(f"{name}: no picture files in this folder (read are {read}); name the folder that holds them")
    labels, names = None, None
    if labelled:
        names, labels = class_labels(directory, files)
        if classes not in (None, len(names)):
            raise InputError(f"{directory}: {len(names)} class folders with pictures; this data set has {classes}")
    size = None if resolution is None else (resolution, resolution)
    for path in track(files, f"checking {name}"):
        own = size_of(path)
        size = size or own
        if min(own) < least:
            raise InputError(
                f"{path}: {own[1]}x{own[0]} pixels, smaller than the crop of {least}x{least}; take it away or train at "
                "a lower resolution"
            )
        if resolution is not None:
            check_crop(own, resolution, str(path))
        elif own != size:
            raise InputError(
                f"{files[0]} is {size[0]}x{size[1]} pixels, {path} is {own[0]}x{own[1]}; all images of a set must have "
                "one resolution, bring them to one and give that folder"
            )
    assert size is not None
    reader = _Folder(tuple(files), size, resolution)
    preprocessing = NATIVE if resolution is None else PREPROCESSING
    return Images(name, size, len(files), reader.read, labels, preprocessing, names)


def picture_files(directory: Path) -> list[Path]:
    """All pictures below a folder, each file once, in the order of their relative paths.

    Links are followed, since a class folder may be one; a folder that contains itself is entered once. Hidden files
    and folders are passed over. Pictures of formats that are not read are counted in a message.

    Raises:
        InputError: a folder that cannot be read, a link that leads nowhere, or a device or pipe with a picture's name.
    """
    files: dict[tuple[int, int], Path] = {}
    entered: set[tuple[int, int]] = set()
    passed_over: Counter[str] = Counter()
    again = 0

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); give it up or make it readable")

    for parent, folders, names in os.walk(directory, followlinks=True, onerror=refuse):
        key = _identity(Path(parent))
        if key in entered:
            folders.clear()
            continue
        entered.add(key)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(".") or (suffix not in read_suffixes() and suffix not in foreign_suffixes()):
                continue
            path = Path(parent, name)
            if suffix in foreign_suffixes():
                passed_over[suffix] += 1
                continue
            key = _identity(path)
            again += key in files
            files.setdefault(key, path)
    for suffix, count in sorted(passed_over.items()):
        status(f"{directory}: {count} {suffix} files are passed over, which are not read here; convert them")
    if again:
        status(f"{directory}: {again} links to pictures that are there already count once")
    return sorted(files.values(), key=lambda path: path.relative_to(directory).as_posix())


def _identity(path: Path) -> tuple[int, int]:
    """Device and number of a file or folder, the same for all links to it."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: a link that leads nowhere, or unreadable ({error.strerror}); take it away") from None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise InputError(f"{path}: a device or pipe, not a file; take it away")
    return found.st_dev, found.st_ino


def class_labels(directory: Path, files: Sequence[Path]) -> tuple[dict[int, str], Tensor]:
    """Names of the classes by label, and the label of every file, int64 (N,): the sub-folder that it lies in.

    Folders whose names are all whole numbers are labels themselves; otherwise label k is the k-th of them by name.

    Raises:
        InputError: a picture in no sub-folder, or sub-folders that are the parts of a data set.
    """
    parents = [path.relative_to(directory).parts[:-1] for path in files]
    if () in parents:
        raise InputError(
            f"{files[parents.index(())]}: lies in no class folder; sort the pictures into one folder per class"
        )
    names = sorted({parent[0] for parent in parents})
    if all(name.lower() in SPLITS for name in names):
        raise InputError(
            f"{directory}: its folders are {', '.join(names)}, the parts of a data set and not classes; give one of "
            f"them, such as {directory / names[0]}"
        )
    numbered = all(name.isascii() and name.isdigit() for name in names)
    numbers = {name: int(name) if numbered else number for number, name in enumerate(names)}
    if len(set(numbers.values())) < len(names):
        raise InputError(f"{directory}: two folders stand for one class number; rename one of {', '.join(names[:6])}")
    return {number: name for name, number in numbers.items()}, torch.tensor([numbers[parent[0]] for parent in parents])
