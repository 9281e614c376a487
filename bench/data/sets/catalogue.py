"""The data sets of the papers by name, from `reference_stats/datasets.toml`: where they are, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.data.preprocessing import NATIVE, PREPROCESSING
from bench.records import from_table, read_toml, shipped_data
from dydit import InputError


@dataclass(frozen=True)
class DataSet:
    """One data set.

    `splits` gives the number of images in each split, the default split first. `hub_id` and `config` name the set on
    the hub (None: it is not from there); splits in `local_splits` are not in the hub's copy, and the hub asks for
    consent to terms where the set is `gated`. `label_column` is None, and `classes` 0, where images have no class.
    `resolution` is the default side in pixels: of the images themselves (`native`), or of the DiT models that the
    papers train on the set. `padding` black pixels are added on each side of a stored image, and `resolution`
    is the side with them.
    """

    name: str
    title: str
    splits: Mapping[str, int]
    image_column: str
    resolution: int
    hub_id: str | None = None
    config: str | None = None
    label_column: str | None = None
    classes: int = 0
    native: bool = False
    local_splits: tuple[str, ...] = ()
    gated: bool = False
    padding: int = 0
    note: str = ""

    @property
    def stored_side(self) -> int:
        """Side in pixels of the stored images of a native set."""
        return self.resolution - 2 * self.padding

    def preprocessing(self, resolution: int | None = None) -> str:
        """Name of what is done to the images for a resolution (None: the default one), as statistics record it."""
        return NATIVE if self.native and resolution in (None, self.resolution) else PREPROCESSING

    def choose_split(self, split: str | None) -> str:
        """The split asked for; the default one where none is.

        Raises:
            InputError: no such split.
        """
        if split is None:
            return next(iter(self.splits))
        if split not in self.splits:
            raise InputError(f"{self.name}: no split {split!r}; choose one of {', '.join(self.splits)}")
        return split

    def choose_resolution(self, resolution: int | None) -> int:
        """The side in pixels asked for; the default one where none is.

        Raises:
            InputError: below 1, or above the native one.
        """
        if resolution is None:
            return self.resolution
        if resolution < 1 or (self.native and resolution > self.resolution):
            most = f"from 1 to {self.resolution}, the native one" if self.native else "at least 1"
            raise InputError(f"{self.name}: resolution {resolution}; it must be {most}")
        return resolution


def read_datasets(path: Path) -> dict[str, DataSet]:
    """The data sets of a file by name, in its order.

    Raises:
        InputError: no such file, not TOML, or a table that is no data set.
    """
    return {name: _dataset(name, table, f"{path}, [{name}]") for name, table in read_toml(path).items()}


def find_dataset(name: str) -> DataSet:
    """A data set by its name.

    Raises:
        InputError: unknown name; the known ones are listed.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _dataset(name: str, table: object, where: str) -> DataSet:
    """A checked data set; `where` opens the message of what is wrong."""
    entry = from_table(DataSet, name, table, where)
    if min(entry.resolution, *entry.splits.values()) < 1:
        raise InputError(
            f"{where}: resolution = {entry.resolution}, splits = {dict(entry.splits)}; they are at least 1"
        )
    if entry.padding < 0 or (entry.padding and not (entry.native and entry.stored_side > 0)):
        raise InputError(f"{where}: padding = {entry.padding}; whole pixels, fewer than half of a native resolution")
    default, *others = entry.splits
    if not set(entry.local_splits) <= set(others):
        raise InputError(f"{where}: local_splits = {list(entry.local_splits)}; splits after {default}, the default one")
    if (entry.hub_id is None) != (entry.config is None):
        raise InputError(f"{where}: hub_id = {entry.hub_id}, config = {entry.config}; give both or neither")
    if (entry.label_column is None) != (entry.classes == 0) or entry.classes < 0:
        raise InputError(
            f"{where}: label_column = {entry.label_column}, classes = {entry.classes}; give both or neither"
        )
    return entry


DATASETS: dict[str, DataSet] = read_datasets(shipped_data() / "datasets.toml")
"""Every data set that the suite knows, by name."""
