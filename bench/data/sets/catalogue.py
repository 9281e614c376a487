"""The data sets of the paper by name: where they are fetched, how their columns are called, how many images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.data.preprocessing import NATIVE as NATIVE
from bench.data.preprocessing import PREPROCESSING as PREPROCESSING
from dydit import InputError


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
