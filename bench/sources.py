"""Image sets by the text that names them on a command line."""

from __future__ import annotations

from pathlib import Path

from bench import datasets, image_files, shards
from bench.images import Images
from dydit.errors import InputError


def open_images(
    source: str | Path, *, data_root: Path | None = None, split: str | None = None, resolution: int | None = None
) -> Images:
    """Open an image set and check it as far as that is quick; pixels are read when asked for.

    Args:
        source: a name in `bench.datasets.DATASETS` (write ./NAME for a path of that name); a directory written by
            `python -m bench generate`; a .npz whose `arr_0` is uint8 (N, H, W, 1 or 3), as the ADM evaluator reads it,
            with labels in `arr_1` if it has them; a folder of PNG, JPEG, WebP or BMP files, taken in the order of their
            relative paths.
        data_root: where local copies of data sets lie; see `bench.datasets.open_dataset`.
        split: of a data set.
        resolution: side in pixels. Data sets and pictures in folders are brought to it by `pictures.centre_crop`;
            shards and .npz files are finished, and must have it.

    Raises:
        InputError: nothing there, a file that is not whole, another dtype or shape, mixed or other resolutions, or a
            `split` of something that has none.
    """
    name = str(source)
    if name in datasets.DATASETS:
        return datasets.open_dataset(name, split, data_root=data_root, resolution=resolution)
    if split is not None:
        raise InputError(f"{name}: split {split} was asked for, but only a data set by name has splits; leave it out")
    path = Path(source)
    if path.is_dir() and not (path / shards.MANIFEST).is_file():
        return image_files.open_folder(path, name, resolution)
    if not path.exists():
        raise InputError(
            f"{name}: no such file or folder, and no data set of that name; known are {', '.join(datasets.DATASETS)}"
        )
    images = image_files.open_shards(path, name) if path.is_dir() else image_files.open_npz(path, name)
    if resolution is not None and images.size != (resolution, resolution):
        height, width = images.size
        raise InputError(
            f"{name}: {height}x{width} pixels, asked for {resolution}x{resolution}; "
            "finished images are not resized, make them at that resolution"
        )
    return images
