"""Images with classes, large enough for the crop: what networks are trained on."""

from __future__ import annotations

from pathlib import Path

from bench import datasets, image_files, pictures, shards, sources
from bench.images import Images
from dydit.errors import InputError


def open_labelled(source: str, resolution: int, data_root: Path | None = None, split: str | None = None) -> Images:
    """Images of a source of `bench.sources.open_images`, or of a folder of pictures with one folder a class.

    Args:
        source: name or path.
        resolution: side in pixels.
        data_root: local copies of data sets.
        split: of a data set.

    Raises:
        InputError: as `open_images`; no labels; or a folder with a picture smaller than the crop.
    """
    folder = Path(source)
    if source in datasets.DATASETS or not folder.is_dir() or (folder / shards.MANIFEST).exists():
        opened = sources.open_images(source, data_root=data_root, split=split, resolution=resolution)
    else:
        if split is not None:
            raise InputError(f"{source}: split {split} was asked for, but only a data set by name has splits")
        _check_large_enough(folder, resolution)
        classes = sum(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir())
        opened = image_files.open_folder(folder, source, resolution, classes or None)
    if not opened.has_labels:
        raise InputError(f"data {source}: no class labels, which networks are trained with; use a set that has them")
    return opened


def _check_large_enough(folder: Path, side: int) -> None:
    """The crop enlarges what is too small, which is right for statistics and wrong for training."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in pictures.SUFFIXES:
            height, width = pictures.size_of(path)
            if min(height, width) < side:
                raise InputError(
                    f"{path}: {width}x{height} pixels, smaller than the crop of {side}x{side}; take it away or train "
                    "at a lower resolution"
                )
