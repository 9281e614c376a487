"""Image sets by the text that names them on a command line."""

from __future__ import annotations

from pathlib import Path

from bench.data import shards
from bench.data.files import open_npz, open_shards
from bench.data.folder import open_folder, picture_files
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
            with labels in `arr_1` if it has them; a folder of pictures, taken in the order of their relative paths.
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
    if path.is_dir() and not _is_run(path):
        return open_folder(path, name, resolution)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{name}: a device or pipe, not a file; give a .npz or a folder")
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


def _is_run(directory: Path) -> bool:
    """Whether a directory is to be read as a run of `generate`: also one of which a damaged manifest alone is left."""
    damaged = (directory / shards.MANIFEST).is_file() and not picture_files(directory)
    return shards.is_run(directory) or damaged


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
    if source in DATASETS or not folder.is_dir() or _is_run(folder):
        opened = open_images(source, data_root=data_root, split=split, resolution=resolution)
    else:
        if split is not None:
            raise InputError(f"{source}: split {split} was asked for, but only a data set by name has splits")
        # A crop that enlarges pictures is right for statistics, and wrong for training.
        opened = open_folder(folder, source, resolution, labelled=True, least=resolution)
    if not opened.has_labels:
        raise InputError(f"data {source}: no class labels, which networks are trained with; use a set that has them")
    return opened
