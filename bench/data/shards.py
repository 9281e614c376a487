"""The directory of a generation run: a manifest, one file per unit of consecutive images, and what is made of them.

    manifest.json            what decides the images, how many there are, and the record of the run
    units/000000.npz, ...    `images` uint8 (n, H, W, C) and `labels` int64 (n,) of the indices of one unit
    samples.npz              all of them as the ADM evaluator reads them: `arr_0` images, `arr_1` labels
    preview.png              a grid of the first images
    png/000000.png, ...      one file per image, where asked for

Every file appears whole or not at all. N is the number of images, n that of one unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.options import BATCH, CHANNELS, IMAGES, PIXELS
from bench.records import (
    ALL_FILES,
    check_same_run,
    check_schema,
    member_header,
    open_archive,
    read_json,
    read_member,
    whole_file,
    write_json,
)
from dydit import InputError, first_line
from dydit.checkpoint.json_objects import read_object
from dydit.sampling import Track

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
"""Version of the manifest and the unit files; to be raised when a field changes its meaning."""
FILES = (*ALL_FILES, "units/*.*", "png/*.*")
"""All files of a run, as patterns."""

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Manifest:
    """What a directory holds, or will hold once its run has finished.

    Args:
        count: images, N.
        unit: consecutive images per file, which are generated as one batch.
        shape: (H, W, C) of an image.
        identity: what decides the content of image k, together with the unit and the shape; fit for JSON.
        record: who made them (see `bench.records.environment`), fit for JSON.
    """

    count: int
    unit: int
    shape: tuple[int, int, int]
    identity: dict[str, Any]
    record: dict[str, Any]

    @property
    def units(self) -> int:
        """How many unit files there are once the run has finished."""
        return -(-self.count // self.unit)

    def indices(self, unit: int) -> range:
        """The image indices of one unit; the last unit may be shorter."""
        return unit_range(self.count, self.unit, unit)

    def check_continues(self, there: Manifest, directory: Path) -> None:
        """Refuse to mix this run with the one that is `there`; more images of the same run may be added.

        Raises:
            InputError: something that decides the images differs, or the directory holds more of them.
        """
        old, new = ({**each.identity, "unit": each.unit, "shape": list(each.shape)} for each in (there, self))
        check_same_run(directory, old | {"images": max(there.count, self.count)}, new | {"images": self.count})


def unit_ranges(count: int, size: int) -> Iterator[range]:
    """The indices of each unit of `count` images, one after another, see `unit_range`."""
    return (unit_range(count, size, unit) for unit in range(-(-count // size)))


def unit_range(count: int, size: int, unit: int) -> range:
    """The indices of one unit of `count` images: `size` consecutive ones, fewer in the last."""
    return range(unit * size, min((unit + 1) * size, count))


def is_run(directory: Path) -> bool:
    """Whether a directory is a run of `generate`, finished or not, and not one with another tool's manifest.json."""
    if (directory / "units").is_dir():
        return True
    try:
        content = read_object(directory / MANIFEST, "")
    except (OSError, InputError):
        return False
    return {"schema_version", "identity", "unit"} <= content.keys()


def find_manifest(directory: Path) -> Manifest | None:
    """The manifest of the run in a directory; None where there is no run.

    Raises:
        InputError: the manifest is damaged, or there are units without one.
    """
    if is_run(directory) and (directory / MANIFEST).exists():
        return read_manifest(directory)
    if any((directory / "units").glob("*.npz")):
        raise InputError(f"output {directory}: holds units without {MANIFEST}; choose another directory")
    return None


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory of generated images.

    Raises:
        InputError: no such file, no manifest of this kind, or one of a newer schema than this code knows.
    """
    path = directory / MANIFEST
    try:
        content = read_json(path, "restore it, or generate again into another directory")
        check_schema(content, SCHEMA_VERSION, path)
        count, unit = IMAGES.whole(content["count"], "count"), BATCH.whole(content["unit"], "unit")
        height, width, channels = content["shape"]
        shape = PIXELS.whole(height, "height"), PIXELS.whole(width, "width"), CHANNELS.whole(channels, "channels")
        return Manifest(count, unit, shape, dict(content["identity"]), dict(content["record"]))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a directory that `python -m bench generate` wrote"
        ) from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a manifest of generated images ({error!r}); generate into another directory"
        ) from None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json`."""
    write_json({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(manifest)}, directory / MANIFEST)


def unit_path(directory: Path, unit: int) -> Path:
    """Where a unit lies."""
    return directory / "units" / f"{unit:06d}.npz"


def missing_units(
    directory: Path, manifest: Manifest, *, read: bool = False, track: Track = lambda units: units
) -> list[int]:
    """Numbers, ascending, of the units that are not there whole.

    A file that is cut short, is no archive or holds other shapes counts as missing. With `read` every byte is read and
    compared with the checksums in the file, too; without, a look at the headers is enough.
    """
    return [unit for unit in track(range(manifest.units)) if not _is_whole(directory, manifest, unit, read)]


def load_unit(directory: Path, manifest: Manifest, unit: int) -> tuple[Images, Labels]:
    """Images uint8 (n, H, W, C) and labels int64 (n,) of one unit.

    Raises:
        InputError: the file is missing, damaged or of other shapes.
    """
    path = unit_path(directory, unit)
    try:
        with open_archive(path) as archive:
            arrays = {name: read_member(archive, f"{name}.npy") for name in ("images", "labels")}
        for name, (shape, dtype) in _expected(manifest, unit).items():
            if arrays[name].shape != shape or arrays[name].dtype != dtype:
                raise ValueError(f"{name} {arrays[name].dtype} {arrays[name].shape}, not {dtype} {shape}")
    except Exception as error:  # damaged bytes raise many kinds; a user needs one line
        raise InputError(
            f"{path}: not a whole unit ({first_line(error)}); remove it and repeat the "
            "`python -m bench generate` run, which makes only what is missing"
        ) from None
    return arrays["images"], arrays["labels"]


def write_unit(directory: Path, manifest: Manifest, unit: int, images: Images, labels: Labels) -> None:
    """Write one unit: images uint8 (n, H, W, C), labels int64 (n,).

    Raises:
        InputError: arrays of other shapes or dtypes, or a file that cannot be written.
    """
    for name, array in (("images", images), ("labels", labels)):
        shape, dtype = _expected(manifest, unit)[name]
        if array.shape != shape or array.dtype != dtype:
            raise InputError(f"unit {unit}: {name} are {array.dtype} {array.shape}; the manifest says {dtype} {shape}")
    with whole_file(unit_path(directory, unit)) as partial:
        np.savez(partial, images=images, labels=labels)


def bytes_to_write(manifest: Manifest, missing: list[int], *, png: bool) -> int:
    """Bytes that a run still puts on the disk: missing units, `samples.npz`, and PNG files at their raw size."""
    image = int(np.prod(manifest.shape)) + np.dtype(np.int64).itemsize
    made = sum(len(manifest.indices(unit)) for unit in missing)
    return image * (made + manifest.count * (2 if png else 1))


def _expected(manifest: Manifest, unit: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of the arrays of one unit."""
    n = len(manifest.indices(unit))
    return {"images": ((n, *manifest.shape), np.dtype(np.uint8)), "labels": ((n,), np.dtype(np.int64))}


def _is_whole(directory: Path, manifest: Manifest, unit: int, read: bool) -> bool:
    try:
        with open_archive(unit_path(directory, unit)) as archive:
            for name, expected in _expected(manifest, unit).items():
                if member_header(archive, f"{name}.npy") != expected:
                    return False
            return not read or archive.testzip() is None
    except Exception:  # damaged bytes raise many kinds, and all mean the same
        return False
