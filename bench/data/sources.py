"""Image sets by the text that names them on a command line."""

from __future__ import annotations

from pathlib import Path

from bench.data import preprocessing, shards
from bench.data.files import open_folder, open_npz, open_shards
from bench.data.image_set import Images
from bench.data.sets.catalogue import DATASETS
from bench.data.sets.opening import open_dataset
from dydit import InputError


def open_images(
    source: str | Path, *, data_root: Path | None = None, split: str | None = None, resolution: int | None = None
) -> Images:
    """Open an image set and check what can be checked quickly; pixels are read when they are asked for.

    Args:
        source: a name in `bench.data.sets.catalogue.DATASETS` (write ./NAME for a path of that name); a directory that
            `python -m bench generate` wrote; a .npz whose `arr_0` is uint8 (N, H, W, 1 or 3), as ADM's evaluator reads,
            with labels in `arr_1` if it has them; a folder of PNG, JPEG, WebP or BMP files, taken in the order of their
            relative paths.
        data_root: where local copies of data sets lie; see `bench.data.sets.opening.open_dataset`.
        split: of a data set.
        resolution: side in pixels. Data sets and pictures in folders are brought to it by
            `bench.data.preprocessing.centre_crop`; shards and .npz files are finished, and must have it.

    Raises:
        InputError: nothing there, a file that is not whole, another dtype or shape, mixed or other resolutions, or a
            `split` of something that has none.
    """
    name = str(source)
    if name in DATASETS:
        return open_dataset(name, split, data_root=data_root, resolution=resolution)
    if split is not None:
        raise InputError(f"{name}: split {split} was asked for, but only a data set by name has splits; leave it out")
    path = Path(source)
    if path.is_dir() and not (path / shards.MANIFEST).is_file():
        return open_folder(path, name, resolution)
    if not path.exists():
        raise InputError(
            f"{name}: no such file or folder, and no data set of that name; known are {', '.join(DATASETS)}"
        )
    images = open_shards(path, name) if path.is_dir() else open_npz(path, name)
    if resolution is not None and images.size != (resolution, resolution):
        height, width = images.size
        raise InputError(
            f"{name}: {height}x{width} pixels, asked for {resolution}x{resolution}; "
            "finished images are not resized, make them at that resolution"
        )
    return images


def open_labelled(source: str, resolution: int, data_root: Path | None = None, split: str | None = None) -> Images:
    """Images with classes: of a source of `open_images`, or of a folder of pictures with one sub-folder per class.

    Args:
        source: name or path.
        resolution: side in pixels.
        data_root: where local copies of data sets lie.
        split: of a data set.

    Raises:
        InputError: as `open_images`; no labels; or a folder with a picture that is smaller than the crop.
    """
    folder = Path(source)
    if source in DATASETS or not folder.is_dir() or (folder / shards.MANIFEST).exists():
        opened = open_images(source, data_root=data_root, split=split, resolution=resolution)
    else:
        if split is not None:
            raise InputError(f"{source}: split {split} was asked for, but only a data set by name has splits")
        _check_large_enough(folder, resolution)
        classes = sum(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir())
        opened = open_folder(folder, source, resolution, classes or None)
    if not opened.has_labels:
        raise InputError(f"data {source}: no class labels, which networks are trained with; use a set that has them")
    return opened


def _check_large_enough(folder: Path, side: int) -> None:
    """Refuse pictures that the crop would enlarge, which is right for statistics and wrong for training."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in preprocessing.SUFFIXES:
            height, width = preprocessing.size_of(path)
            if min(height, width) < side:
                raise InputError(
                    f"{path}: {width}x{height} pixels, smaller than the crop of {side}x{side}; take it away or train "
                    "at a lower resolution"
                )
