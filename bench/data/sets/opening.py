"""The images of a data set by its name, from the hub or from local files below a data root.

A data set of many image sizes is brought to one by `centre_crop`; sets of a native resolution are taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from bench.data import image_set
from bench.data.folder import open_folder
from bench.data.image_set import Images, StreamedImages
from bench.data.preprocessing import centre_crop, pad, to_tensor
from bench.data.sets import cifar, digits, fashion, hub
from bench.data.sets.catalogue import DataSet, find_dataset
from dydit import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


def open_dataset(
    name: str, split: str | None = None, *, data_root: Path | None = None, resolution: int | None = None
) -> Images:
    """Open one split of a data set; images are decoded when they are asked for.

    With `data_root`, local files are used and nothing is downloaded. Below `data_root/NAME`, or `data_root` itself
    where there is no such folder, they may lie as

    - parquet files, as the hub has them: `data/SPLIT-*.parquet`, `CONFIG/SPLIT-*.parquet` or `CONFIG/SPLIT/*.parquet`;
    - CIFAR's own archive, `cifar-10-python.tar.gz` or `cifar-100-python.tar.gz`, or the folder unpacked from it;
    - Fashion-MNIST's four IDX files, compressed or not, there or in `FashionMNIST/raw`;
    - folders of pictures, `SPLIT/CLASS/FILE`, or `SPLIT/FILE` for a set without classes; class k is the k-th by name.

    Folders and parquet files may hold fewer images than the split has. Without `data_root`, the hub's copy is used, and
    must be whole; Fashion-MNIST is looked for before that where Debian's package `dataset-fashion-mnist` puts it.
    Parquet is converted to Arrow in the cache of `datasets` (HF_DATASETS_CACHE), and mapped from there.

    Args:
        name: in `DATASETS`.
        split: a name in its `splits`; the first by default.
        data_root: see above.
        resolution: side in pixels; `DataSet.resolution` by default.

    Raises:
        InputError: an unknown name or split, a resolution above the native one, files that are missing, broken or of
            another data set, or a hub that cannot be reached.
    """
    entry = find_dataset(name)
    split = entry.choose_split(split)
    resolution = entry.choose_resolution(resolution)
    if entry.hub_id is None:
        data = digits.load_digits()
        return _cropped(image_set.of_tensor(data.images, f"{name}/{split}", data.labels), entry, resolution)
    if data_root is None:
        if name == fashion.NAME and fashion.locate_fashion() is not None:
            return _from_idx(entry, split, fashion.DEBIAN, resolution)
        return hub.from_hub(entry, split, resolution)
    directory = _directory(entry, data_root)
    if files := hub.parquet_files(entry, split, directory):
        return hub.from_parquet(entry, split, files, resolution)
    return _from_archive_or_folder(entry, split, directory, resolution)


def open_stream(
    name: str, split: str | None = None, *, data_root: Path | None = None, resolution: int | None = None
) -> Images | StreamedImages:
    """The images of `open_dataset` in their order, each read once, without classes.

    The hub's copy is not downloaded, and parquet files are not converted: nothing is written. Other kinds of files are
    opened by `open_dataset`, which converts none of them.

    Args:
        name: as in `open_dataset`, as are the other three.

    Raises:
        InputError: as `open_dataset`; while it is read, also images that are broken, too many or too few.
    """
    entry = find_dataset(name)
    split = entry.choose_split(split)
    side = entry.choose_resolution(resolution)
    if entry.hub_id is not None and data_root is None:
        return hub.stream_from_hub(entry, split, side)
    if data_root is not None and (files := hub.parquet_files(entry, split, _directory(entry, data_root))):
        return hub.stream_parquet(entry, split, files, side)
    return open_dataset(name, split, data_root=data_root, resolution=resolution)


def locate(name: str, split: str | None, data_root: Path) -> Path | None:
    """The folder or archive that `open_dataset` reads a split from; None where it finds nothing below `data_root`.

    Raises:
        InputError: an unknown name or split, no such data root, or parquet files of which some are missing.
    """
    entry = find_dataset(name)
    split = entry.choose_split(split)
    directory = _directory(entry, data_root)
    if files := hub.parquet_files(entry, split, directory):
        return files[0].parent
    if name == fashion.NAME and (found := fashion.locate_fashion(directory)) is not None:
        return found
    places = [*(cifar.archive_and_folder(name) or ()), split]
    return next((directory / place for place in places if (directory / place).exists()), None)


# Local files that need no conversion


def _directory(entry: DataSet, data_root: Path) -> Path:
    if not data_root.is_dir():
        raise InputError(f"data root {data_root}: no such folder; name the one that holds {entry.name}")
    own = data_root / entry.name
    return own if own.is_dir() else data_root


def _from_idx(entry: DataSet, split: str, directory: Path, resolution: int) -> Images:
    images, labels = fashion.load_fashion(split, directory)
    return _cropped(image_set.of_tensor(images, f"{entry.name}/{split}", labels), entry, resolution)


def _from_archive_or_folder(entry: DataSet, split: str, directory: Path, resolution: int) -> Images:
    title = f"{entry.name}/{split}"
    if entry.name == fashion.NAME and fashion.locate_fashion(directory) is not None:
        return _from_idx(entry, split, directory, resolution)
    archive = cifar.read_archive(entry.name, directory, split)
    if archive is not None:
        images, labels = archive
        return _cropped(image_set.of_tensor(images, title, labels), entry, resolution)
    folder = directory / split
    if not folder.is_dir():
        names = cifar.archive_and_folder(entry.name)
        own = f", {names[0]}" if names else ", the four IDX files" if entry.name == fashion.NAME else ""
        raise InputError(
            f"{directory}: no split {split} of {entry.name}; looked for data/{split}-*.parquet, "
            f"{entry.config}/{split}-*.parquet, {entry.config}/{split}/*.parquet{own} and the folder {split}"
        )
    opened = open_folder(
        folder,
        title,
        None if entry.native else resolution,
        labelled=entry.classes > 0,
        classes=entry.classes or None,
    )
    return _cropped(_padded(opened, entry), entry, resolution) if entry.native else opened


def _padded(opened: Images, entry: DataSet) -> Images:
    """Images of the stored side with the padding of the data set; others as they are."""
    if not entry.padding or opened.size != (entry.stored_side, entry.stored_side):
        return opened
    reader = _Padded(opened, entry.padding)
    return Images(opened.name, (entry.resolution, entry.resolution), len(opened), reader.read, opened.labels)


def _cropped(opened: Images, entry: DataSet, resolution: int) -> Images:
    """Images of a native resolution, which is checked, at `resolution`."""
    native = entry.resolution
    if opened.size != (native, native):
        height, width = opened.size
        raise InputError(f"{opened.name}: {height}x{width} pixels; {entry.title} has {native}x{native}")
    if resolution == native:
        return opened
    reader = _Cropped(opened, resolution)
    size = (resolution, resolution)
    return Images(opened.name, size, len(opened), reader.read, opened.labels, entry.preprocessing(resolution))


@dataclass(frozen=True)
class _Cropped:
    """Reader of images that are centre-cropped from others."""

    images: Images
    resolution: int

    def read(self, index: int) -> Tensor:
        return to_tensor(centre_crop(_picture(self.images[index]), self.resolution))


@dataclass(frozen=True)
class _Padded:
    """Reader of images that are padded from others."""

    images: Images
    pixels: int

    def read(self, index: int) -> Tensor:
        return to_tensor(pad(_picture(self.images[index]), self.pixels))


def _picture(image: Tensor) -> Image:
    from PIL import Image as Pillow

    return Pillow.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
