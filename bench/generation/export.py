"""What a finished run of generation leaves for people and other tools: samples.npz, a preview, PNG files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from bench.data.shards import Images, Labels, Manifest, load_unit
from bench.records import whole_file
from dydit.sampling import Track

PREVIEW = 64
"""Images in the preview."""


def assemble(directory: Path, manifest: Manifest, track: Track = lambda units: units) -> Path:
    """Put all units into `samples.npz` and the first images into `preview.png`; one unit is in memory at a time.

    Returns:
        The path of `samples.npz`: `arr_0` uint8 (N, H, W, C), `arr_1` int64 (N,).

    Raises:
        InputError: a unit is missing or damaged, or a file cannot be written.
    """
    path = directory / "samples.npz"
    header = {"descr": "|u1", "fortran_order": False, "shape": (manifest.count, *manifest.shape)}
    labels: list[Labels] = []
    first: list[Images] = []
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for unit in track(range(manifest.units)):
                images, own = load_unit(directory, manifest, unit)
                member.write(np.ascontiguousarray(images).data)
                labels.append(own)
                if manifest.indices(unit).start < PREVIEW:
                    first.append(images)
        with archive.open("arr_1.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.concatenate(labels))
    _write_preview(directory / "preview.png", np.concatenate(first)[:PREVIEW])
    return path


def write_pngs(directory: Path, manifest: Manifest, unit: int) -> None:
    """Write the images of one unit as `png/INDEX.png`; files that hold them already, byte for byte, stay.

    Raises:
        InputError: the unit is missing or damaged, or a file cannot be written.
    """
    images, _ = load_unit(directory, manifest, unit)
    for index, image in zip(manifest.indices(unit), images, strict=True):
        _write_png(directory / "png" / f"{index:06d}.png", image)


def discard_assembled(directory: Path) -> None:
    """Remove `samples.npz` and `preview.png`, which hold fewer images than a manifest that has grown."""
    for name in ("samples.npz", "preview.png"):
        (directory / name).unlink(missing_ok=True)


def _write_preview(path: Path, images: Images) -> None:
    import torch
    from torchvision.utils import make_grid

    grid = make_grid(torch.from_numpy(images).permute(0, 3, 1, 2), nrow=8, padding=2)
    _write_png(path, grid.permute(1, 2, 0).numpy())


def _write_png(path: Path, image: Images) -> None:
    """Write uint8 (H, W, 1 or 3), unless the file is there as it would be written."""
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(picture, "PNG")
    if not (path.is_file() and path.read_bytes() == picture.getvalue()):
        with whole_file(path) as partial:
            partial.write_bytes(picture.getvalue())
