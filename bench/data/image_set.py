"""A set of images behind one interface, wherever the pixels lie."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from bench.data.preprocessing import NATIVE
from bench.records import printable
from dydit import InputError


class ImageSet(Dataset[Tensor]):
    """What every set has, whether its images are read in any order (`Images`) or come one by one (`StreamedImages`).

    Every image is uint8 (3, H, W), grey repeated.

    Attributes:
        name: what tables and errors show.
        size: (H, W) in pixels, of every image.
        count: number of images.
        preprocessing: name of what was done to the pixels (`bench.data.preprocessing.NATIVE`: nothing).
    """

    def __init__(self, name: str, size: tuple[int, int], count: int, preprocessing: str) -> None:
        self.name = printable(name)
        self.size = size
        self.count = count
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return self.count


class Images(ImageSet):
    """Images in a fixed order, read when they are asked for; the set can be sent to the workers of a DataLoader.

    An image may be a view, to be copied before it is changed.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        count: int,
        read: Callable[[int], Tensor],
        labels: Tensor | Callable[[], Tensor] | None = None,
        preprocessing: str = NATIVE,
        class_names: Mapping[int, str] | None = None,
    ) -> None:
        """Put a set together.

        Args:
            name: as in `ImageSet`.
            size: as in `ImageSet`.
            count: as in `ImageSet`.
            read: gives the image at an index from 0 as uint8 (1 or 3, H, W).
            labels: int64 (count,), or what reads them, called once, at first use.
            preprocessing: as in `ImageSet`.
            class_names: by label, where the set tells them.
        """
        super().__init__(name, size, count, preprocessing)
        self._read = read
        self._labels = labels
        self.class_names = class_names

    def __getitem__(self, index: int) -> Tensor:
        if not -self.count <= index < self.count:
            raise IndexError(f"{self.name}: image {index} of {self.count}")
        return self._read(index % self.count).expand(3, -1, -1)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(self.count))

    @property
    def has_labels(self) -> bool:
        """Whether the images have known classes."""
        return self._labels is not None

    @property
    def classes(self) -> list[Entry]:
        """The `class_table` of the set.

        Raises:
            InputError: the set has no classes.
        """
        return class_table(self.labels, self.class_names)

    @functools.cached_property
    def labels(self) -> Tensor:
        """Classes as int64 (N,).

        Raises:
            InputError: the set has none.
        """
        if self._labels is None:
            raise InputError(f"{self.name}: no class labels; use a set that has them")
        return self._labels if isinstance(self._labels, Tensor) else self._labels()


Entry = dict[str, Any]
"""One class in a table: its `label`, its `name` (None: not told) and the number of its `images`; fit for JSON."""


def class_table(labels: Tensor, names: Mapping[int, str] | None = None) -> list[Entry]:
    """One entry per class of labels (N,)."""
    counts, known = Counter(labels.tolist()), names or {}
    return [{"label": label, "name": known.get(label), "images": counts[label]} for label in sorted(counts)]


def read_class_table(content: Any) -> list[Entry]:
    """A table that `class_table` made, back from a file: JSON as text, or what was read of it.

    Raises:
        ValueError: it is none; what is wrong with it.
    """
    try:
        table = json.loads(content) if isinstance(content, str) else content
    except RecursionError:
        raise ValueError("lists in too many lists") from None
    if not isinstance(table, list):
        raise ValueError("no list")
    for row in table:
        if not isinstance(row, dict) or not {"label", "name", "images"} <= row.keys():
            raise ValueError(f"{str(row)[:60]} lacks label, name or images")
        numbers = (row["label"], row["images"])
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(f"label {str(numbers[0])[:20]}, images {str(numbers[1])[:20]}")
        if not isinstance(row["name"], str | None):
            raise ValueError(f"class {row['label']} has the name {str(row['name'])[:60]}")
    if len({row["label"] for row in table}) != len(table):
        raise ValueError("a label stands twice")
    return table


def describe_classes(table: Sequence[Entry]) -> str:
    """A table of `class_table` in words; at most ten classes are shown."""
    shown = [
        f"{row['label']} ({row['images']})"
        if row["name"] is None
        else f"{row['label']} = {printable(row['name'])[:60]} ({row['images']})"
        for row in table[:10]
    ]
    more = f" and {len(table) - len(shown)} more" if len(table) > len(shown) else ""
    return f"{len(table)} classes: {', '.join(shown)}{more}"


class StreamedImages(ImageSet, IterableDataset[Tensor]):
    """Images that are never kept, in the stored order.

    Iterating raises an InputError unless exactly `count` images come. In a DataLoader the stream takes one worker
    process at most, since several would mix the order.
    """

    def __init__(
        self, name: str, size: tuple[int, int], count: int, read: Callable[[], Iterator[Tensor]], preprocessing: str
    ) -> None:
        """Put a stream together; `read` starts it anew."""
        super().__init__(name, size, count, preprocessing)
        self._read = read

    def __iter__(self) -> Iterator[Tensor]:
        seen = 0
        for seen, image in enumerate(self._read(), 1):
            if seen > self.count:
                break
            yield image
        if seen != self.count:
            many = "more" if seen > self.count else f"{seen}"
            raise InputError(f"{self.name}: {many} images came, expected {self.count}; get another copy of the set")


def part(images: Images, number: int, of: int) -> Images:
    """The `number`-th (from 1) of `of` consecutive parts, equal in size up to one image.

    Raises:
        InputError: no such part, or one without images.
    """
    start, end = (len(images) * edge // max(of, 1) for edge in (number - 1, number))
    if not 1 <= number <= of or start == end:
        raise InputError(f"part {number}/{of} of {images.name}: there is none; it has {len(images)} images")
    labels = images.labels[start:end] if images.has_labels else None
    read = functools.partial(_shifted, images, start)
    return Images(f"{images.name} {number}/{of}", images.size, end - start, read, labels, images.preprocessing)


def _shifted(images: Images, start: int, index: int) -> Tensor:
    return images[start + index]


def of_tensor(images: Tensor, name: str, labels: Tensor | None = None) -> Images:
    """Images in memory.

    Args:
        images: uint8 (N, C, H, W), C = 1 or 3.
        name: for tables and errors.
        labels: integers (N,), where known.

    Raises:
        InputError: another dtype or shape, or an empty set.
    """
    if images.is_floating_point() and images.isnan().any():
        raise InputError(f"{name}: the images hold NaN; the model that made them diverged")
    if images.dtype != torch.uint8:
        raise InputError(
            f"{name}: {images.dtype}; images must be torch.uint8 (bench.data.preprocessing.to_uint8 converts)"
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"{name}: shape {tuple(images.shape)}; expected (N, C, H, W) with C = 1 or 3, none empty")
    count, _, height, width = images.shape
    checked = None if labels is None else _label_vector(labels, count, name)
    return Images(name, (height, width), count, functools.partial(torch.select, images, 0), checked)


def _label_vector(labels: Tensor, count: int, name: str) -> Tensor:
    if labels.shape != (count,) or labels.is_floating_point():
        raise InputError(
            f"{name}: labels are {labels.dtype} {tuple(labels.shape)}; they must be integers ({count},), one per image"
        )
    return labels.to(torch.int64)
