"""The data sets of the papers' experiments: where they are, how they are laid out, and their images by the protocol.

Images come through Hugging Face `datasets` from the hub, or from local files below a data root (`open_dataset`). A data
set with several resolutions is brought to one by `centre_crop`; sets of a native resolution are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from bench import cifar_archive, dataset_rows, digits, image_files, images, pictures
from bench.images import Images
from bench.pictures import NATIVE as NATIVE
from bench.pictures import PREPROCESSING as PREPROCESSING
from bench.pictures import centre_crop as centre_crop
from bench.streams import StreamedImages
from dydit.errors import InputError


@dataclass(frozen=True)
class DataSet:
    """One data set.

    `hub_id` and `config` name it on the hub (None: it is not from there). `splits` gives the images in each split, the
    default first; those in `local_splits` are not in the hub's copy. `label_column` is None, and `classes` 0, where
    images have no class. `resolution` is the default side in pixels: of the images themselves (`native`), or that of
    the DiT models which the papers train on the set. `gated`: the hub asks for consent to terms.
    """

    name: str
    title: str
    hub_id: str | None
    config: str | None
    splits: Mapping[str, int]
    image_column: str
    label_column: str | None
    classes: int
    resolution: int
    native: bool = False
    local_splits: tuple[str, ...] = ()
    gated: bool = False
    note: str = ""

    def preprocessing(self, resolution: int | None = None) -> str:
        """Name of what is done to the images for a resolution (None: the default one), as statistics record it."""
        return NATIVE if self.native and resolution in (None, self.resolution) else PREPROCESSING


# Splits, counts, columns and configurations are those of the dataset cards on the hub. Where the authors of a set have
# no copy there, another copy of the whole set is named; its counts agree with the paper that introduced the set.
_LIST = (
    DataSet(
        name="imagenet",
        title="ImageNet-1k (ILSVRC 2012)",
        hub_id="ILSVRC/imagenet-1k",
        config="default",
        splits={"train": 1_281_167, "validation": 50_000},
        image_column="image",
        label_column="label",
        classes=1000,
        resolution=256,
        gated=True,
        note="the test split has no labels and is left out",
    ),
    DataSet(
        name="cifar10",
        title="CIFAR-10",
        hub_id="uoft-cs/cifar10",
        config="plain_text",
        splits={"train": 50_000, "test": 10_000},
        image_column="img",
        label_column="label",
        classes=10,
        resolution=32,
        native=True,
    ),
    DataSet(
        name="cifar100",
        title="CIFAR-100",
        hub_id="uoft-cs/cifar100",
        config="cifar100",
        splits={"train": 50_000, "test": 10_000},
        image_column="img",
        label_column="fine_label",
        classes=100,
        resolution=32,
        native=True,
    ),
    DataSet(
        name="food101",
        title="Food-101",
        hub_id="ethz/food101",
        config="default",
        splits={"train": 75_750, "validation": 25_250},
        image_column="image",
        label_column="label",
        classes=101,
        resolution=256,
        note="the hub calls the authors' test images validation",
    ),
    DataSet(
        name="artbench10",
        title="ArtBench-10",
        hub_id="zguo0525/ArtBench",
        config="default",
        splits={"train": 50_000, "test": 10_000},
        image_column="image",
        label_column="label",
        classes=10,
        resolution=256,
        note="a user's copy of the authors' 256x256 folder; its class numbers are not in the order of the names",
    ),
    DataSet(
        name="cars",
        title="Stanford Cars",
        hub_id="tanganke/stanford_cars",
        config="default",
        splits={"train": 8_144, "test": 8_041},
        image_column="image",
        label_column="label",
        classes=196,
        resolution=256,
        note="a user's copy, the authors' page is gone; its further splits are distorted test images and are left out",
    ),
    DataSet(
        name="birds",
        title="CUB-200-2011 birds",
        hub_id="bentrevett/caltech-ucsd-birds-200-2011",
        config="default",
        splits={"train": 5_994, "test": 5_794},
        image_column="image",
        label_column="label",
        classes=200,
        resolution=256,
        note="a user's copy",
    ),
    DataSet(
        name="coco2014",
        title="COCO 2014",
        hub_id="lmms-lab/COCO-Caption",
        config="default",
        splits={"val": 40_504, "train": 82_783, "test": 40_775},
        image_column="image",
        label_column=None,
        classes=0,
        resolution=256,
        local_splits=("train",),
        note="captions, no classes",
    ),
    DataSet(
        name="coco2017",
        title="COCO 2017",
        hub_id="lmms-lab/COCO-Caption2017",
        config="default",
        splits={"val": 5_000, "train": 118_287, "test": 40_670},
        image_column="image",
        label_column=None,
        classes=0,
        resolution=256,
        local_splits=("train",),
        note="captions, no classes",
    ),
    DataSet(
        name="digits",
        title="scikit-learn's handwritten digits",
        hub_id=None,
        config=None,
        splits={"all": 1_797},
        image_column="images",
        label_column="target",
        classes=10,
        resolution=8,
        native=True,
    ),
)
DATASETS: dict[str, DataSet] = {entry.name: entry for entry in _LIST}


def open_dataset(
    name: str, split: str | None = None, *, data_root: Path | None = None, resolution: int | None = None
) -> Images:
    """Open one split of a data set; images are decoded when asked for.

    With `data_root`, local files are used and nothing is downloaded. Below `data_root/NAME`, or `data_root` itself
    where there is no such folder, they may lie as

    - parquet files, as the hub has them: `data/SPLIT-*.parquet`, `CONFIG/SPLIT-*.parquet` or `CONFIG/SPLIT/*.parquet`;
    - CIFAR's own archive, `cifar-10-python.tar.gz` or `cifar-100-python.tar.gz`, or the folder unpacked from it;
    - folders of pictures, `SPLIT/CLASS/FILE`, or `SPLIT/FILE` for a set without classes; class k is the k-th by name.

    They may hold fewer images than the split has. Without `data_root`, the hub's copy is used, and must be whole.
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
    entry = _entry(name)
    split = _split(entry, split)
    resolution = _resolution(entry, resolution)
    if entry.hub_id is None:
        data = digits.load()
        return _cropped(images.of_tensor(data.images, f"{name}/{split}", data.labels), entry, resolution)
    if data_root is None:
        return dataset_rows.from_hub(entry, split, resolution)
    directory = _directory(entry, data_root)
    if files := dataset_rows.parquet_files(entry, split, directory):
        return dataset_rows.from_parquet(entry, split, files, resolution)
    return _from_archive_or_folder(entry, split, directory, resolution)


def open_stream(
    name: str, split: str | None = None, *, data_root: Path | None = None, resolution: int | None = None
) -> Images | StreamedImages:
    """The images of `open_dataset` in their order, each read once when it comes, without classes.

    The hub's copy is not downloaded, and parquet files are not converted: nothing is written. What is neither is read
    where it lies by `open_dataset` already, and comes from there.

    Args:
        name: as the next three, as in `open_dataset`.

    Raises:
        InputError: as `open_dataset`; while it is read, also images that are broken, too many or too few.
    """
    entry = _entry(name)
    split = _split(entry, split)
    side = _resolution(entry, resolution)
    if entry.hub_id is not None and data_root is None:
        return dataset_rows.stream_from_hub(entry, split, side)
    if data_root is not None and (files := dataset_rows.parquet_files(entry, split, _directory(entry, data_root))):
        return dataset_rows.stream_parquet(entry, split, files, side)
    return open_dataset(name, split, data_root=data_root, resolution=resolution)


def locate(name: str, split: str | None, data_root: Path) -> Path | None:
    """The folder or archive that `open_dataset` reads a split from; None where it finds nothing below `data_root`.

    Raises:
        InputError: an unknown name or split, no such data root, or parquet files of which some are missing.
    """
    entry = _entry(name)
    split = _split(entry, split)
    directory = _directory(entry, data_root)
    if files := dataset_rows.parquet_files(entry, split, directory):
        return files[0].parent
    archive = cifar_archive.ARCHIVES.get(name)
    places = [split] if archive is None else [archive.file, archive.folder, split]
    return next((directory / place for place in places if (directory / place).exists()), None)


def _entry(name: str) -> DataSet:
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _split(entry: DataSet, split: str | None) -> str:
    if split is None:
        return next(iter(entry.splits))
    if split not in entry.splits:
        raise InputError(f"{entry.name}: no split {split!r}; choose one of {', '.join(entry.splits)}")
    return split


def _resolution(entry: DataSet, resolution: int | None) -> int:
    if resolution is None:
        return entry.resolution
    if resolution < 1 or (entry.native and resolution > entry.resolution):
        most = f"from 1 to {entry.resolution}, the native one" if entry.native else "at least 1"
        raise InputError(f"{entry.name}: resolution {resolution}; it must be {most}")
    return resolution


# Local files that need no conversion


def _directory(entry: DataSet, data_root: Path) -> Path:
    if not data_root.is_dir():
        raise InputError(f"data root {data_root}: no such folder; name the one that holds {entry.name}")
    own = data_root / entry.name
    return own if own.is_dir() else data_root


def _from_archive_or_folder(entry: DataSet, split: str, directory: Path, resolution: int) -> Images:
    title = f"{entry.name}/{split}"
    archive = cifar_archive.ARCHIVES.get(entry.name)
    if archive is not None and (found := cifar_archive.read(archive, directory, split)) is not None:
        return _cropped(images.of_tensor(found[0], title, found[1]), entry, resolution)
    folder = directory / split
    if not folder.is_dir():
        own = f", {archive.file}" if archive is not None else ""
        raise InputError(
            f"{directory}: no split {split} of {entry.name}; looked for data/{split}-*.parquet, "
            f"{entry.config}/{split}-*.parquet, {entry.config}/{split}/*.parquet{own} and the folder {split}"
        )
    opened = image_files.open_folder(folder, title, None if entry.native else resolution, entry.classes or None)
    return _cropped(opened, entry, resolution) if entry.native else opened


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
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(self.images[index].permute(1, 2, 0).numpy()))
        return pictures.to_tensor(centre_crop(image, self.resolution))
