"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 70,000 grey photographs of clothes in 10 classes; MIT licence.

Its four IDX files are read from a directory, compressed or not, in torchvision's layout or side by side, or from where
Debian's package `dataset-fashion-mnist` installs them. Images are padded from 28 x 28 to 32 x 32 pixels with black.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dydit import InputError, first_line

NAME = "fashion"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Names of the labels 0 to 9."""
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts the files."""
COUNTS = {"train": 60_000, "test": 10_000}
_SIDE, _PADDING = 28, 2
_FILES = {
    "train": (
        ("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}
"""Images and labels of each split, with the SHA-256 of the uncompressed file, since compressed copies differ."""
_WAYS = (
    "put the four IDX files (train-images-idx3-ubyte.gz and the like) into a directory and name it with --data-root; "
    "or install Debian's package dataset-fashion-mnist; or fetch zalando-datasets/fashion_mnist from the hub as "
    "parquet files and name their directory with --data-root"
)


def locate_fashion(data_root: Path | None = None) -> Path | None:
    """The directory that holds the IDX files; None where there is none.

    Args:
        data_root: looked through before Debian's place: itself, its folders `fashion` and `FashionMNIST/raw`.
    """
    places = [DEBIAN]
    if data_root is not None:
        places = [data_root, data_root / NAME, data_root / "FashionMNIST" / "raw"]
    names = [name for split in _FILES.values() for name, _ in split]
    return next((place for place in places if any(_find(place, name) for name in names)), None)


def load_fashion(split: str = "train", data_root: Path | None = None) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 1, 32, 32) and labels int64 (N,) of a split, in the order of the files.

    Args:
        split: `train` (60,000 images) or `test` (10,000).
        data_root: see `locate_fashion`.

    Raises:
        InputError: no such split, a file that is missing, or one whose content is not the published one.
    """
    if split not in _FILES:
        raise InputError(f"{NAME}: no split {split!r}; choose one of {', '.join(_FILES)}")
    directory = locate_fashion(data_root)
    if directory is None:
        where = DEBIAN if data_root is None else data_root
        raise InputError(f"{NAME}: no IDX file in {where}; {_WAYS}")
    images, labels = (_content(directory, name, sha256) for name, sha256 in _FILES[split])
    # IDX: four bytes of type and rank, then one big-endian int32 per axis, then the bytes.
    pixels = torch.frombuffer(bytearray(images[16:]), dtype=torch.uint8).reshape(COUNTS[split], 1, _SIDE, _SIDE)
    classes = torch.frombuffer(bytearray(labels[8:]), dtype=torch.uint8).to(torch.int64)
    return F.pad(pixels, (_PADDING,) * 4), classes


def check_published(images: Tensor, labels: Tensor, split: str, where: str) -> None:
    """Refuse images from elsewhere that are not those of the published files, in their order.

    Args:
        images: uint8 (N, 1, 32, 32).
        labels: int64 (N,).
        split: `train` or `test`.
        where: what an error calls them.

    Raises:
        InputError: another number, order or content.
    """
    inner = slice(_PADDING, _PADDING + _SIDE)
    count = len(images)
    contents = (
        struct.pack(">4B3i", 0, 0, 8, 3, count, _SIDE, _SIDE) + images[:, 0, inner, inner].numpy().tobytes(),
        struct.pack(">4Bi", 0, 0, 8, 1, count) + labels.to(torch.uint8).numpy().tobytes(),
    )
    for content, (name, sha256) in zip(contents, _FILES[split], strict=True):
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InputError(f"{where}: not the published images and labels of {name}; get another copy")


def checksum(split: str = "train") -> str:
    """SHA-256 (hexadecimal) over the published checksums of a split's images and labels."""
    return hashlib.sha256("".join(sha256 for _, sha256 in _FILES[split]).encode()).hexdigest()


def _find(directory: Path, name: str) -> Path | None:
    return next((path for path in (directory / name, directory / f"{name}.gz") if path.is_file()), None)


def _content(directory: Path, name: str, sha256: str) -> bytes:
    path = _find(directory, name)
    if path is None:
        raise InputError(f"{NAME}: {directory} holds no {name} and no {name}.gz; {_WAYS}")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except Exception as error:  # damaged bytes raise many kinds, zlib's own among them
        raise InputError(f"{NAME}: {path} cannot be read ({first_line(error)}); fetch the file again") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(
            f"{NAME}: the content of {path} has SHA-256 {found}, expected {sha256}; it is another file, or damaged: "
            "fetch it again"
        )
    return content
