"""Latents of a data set, encoded once: what fine-tuning at 256 pixels reads instead of running the autoencoder.

    latents.json        count, shape, what made them, and the SHA-256 of every other file
    000000.npy, ...     float32 (n, 4, C, S, S) of one unit of images: mean and deviation of the image's latent, then of
                        the mirrored image's (its latent is not the mirrored latent)
    labels.npy          int64 (N,)

The autoencoder gives a distribution, of which DiT trains on a new sample at every appearance. Mean and deviation are
stored, so that a batch draws its own: mean + deviation * noise, times 0.18215. The noise is torch's global generator's,
which the trainer seeds anew for every micro-batch.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from bench.data import preprocessing
from bench.data.image_set import Entry, Images, class_table, describe_classes, read_class_table
from bench.data.shards import unit_ranges
from bench.data.sources import open_labelled
from bench.generation import decoding
from bench.generation.decoding import LATENT_CHANNELS, LATENT_SCALE
from bench.machine import arithmetic, check_device, status, track
from bench.options import (
    BATCH,
    CHANNELS,
    PIXELS,
    AutoencoderOptions,
    DataOptions,
    OutputOptions,
    ProcessOptions,
    Range,
    option,
)
from bench.records import (
    check_same_run,
    check_schema,
    environment_record,
    file_sha256,
    read_array,
    read_json,
    take_directory,
    tensors_sha256,
    whole_file,
    write_json,
)
from dydit import VAE_DOWNSAMPLING, InputError, first_line

MANIFEST = "latents.json"
LABELS = "labels.npy"
PROGRESS = "progress.json"
"""What a run that is broken off has made: its identity, and the SHA-256 of its files."""
SCHEMA_VERSION = 1
COUNT = Range(1, 1_000_000_000)
"""Images of a set."""
ENCODED = 8
"""Images that the autoencoder encodes at once."""


@dataclass(frozen=True, kw_only=True)
class LatentsOptions(AutoencoderOptions, ProcessOptions, DataOptions, OutputOptions):
    """What to encode, see `bench.data.sources.open_labelled`, and by which autoencoder."""

    out: Path = Path("results/local/latents")
    data: str = option(metavar="NAME|PATH", help="data set, or folder with one folder per class")
    split: str | None = option(None, metavar="NAME", help="of a data set (default: its first, for training)")
    resolution: int = option(256, metavar="PIXELS", help="of the images", within=PIXELS)
    unit: int = option(1024, metavar="N", help="images per file", within=BATCH)


@dataclass(frozen=True)
class Latents:
    """Latents on disk, as `dydit.training.Data`; `shape` is (C, S, S), and `sha256` stands for all files.

    `classes` are those of the labels, with the names that the manifest records.
    """

    files: tuple[NDArray[Any], ...]
    shape: tuple[int, int, int]
    unit: int
    labels: Tensor
    sha256: str
    classes: list[Entry]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """Samples of the latents of rows (n,), or of their mirrored images, float32 (n, C, S, S), and labels (n,)."""
        moments = [
            self.files[row // self.unit][row % self.unit, 2 * turned : 2 * turned + 2]
            for row, turned in zip(rows.tolist(), mirror.tolist(), strict=True)
        ]
        mean, deviation = torch.from_numpy(np.stack(moments)).unbind(1)
        return (mean + deviation * torch.randn_like(mean)) * LATENT_SCALE, self.labels[rows]


def unit_path(directory: Path, number: int) -> Path:
    """Where a unit lies."""
    return directory / f"{number:06d}.npy"


def open_latents(directory: Path) -> Latents:
    """The latents in a directory, every file compared with its checksum in the manifest.

    Raises:
        InputError: no such directory, a broken manifest, or a file that is missing, cut short or has changed.
    """
    again = "run `python -m bench latents` again"
    try:
        content = read_json(directory / MANIFEST, again)
        check_schema(content, SCHEMA_VERSION, directory / MANIFEST)
        count, unit = COUNT.whole(content["count"], "count"), BATCH.whole(content["unit"], "unit")
        channels, height, width = content["shape"]
        shape = CHANNELS.whole(channels, "channels"), PIXELS.whole(height, "height"), PIXELS.whole(width, "width")
        sums = {str(name): str(value) for name, value in content["sha256"].items()}
        checked = (unit_path(directory, number).name for number in range(-(-count // unit)))
        for name in track([LABELS, *checked], f"checking {directory}"):
            if file_sha256(directory / name) != sums[name]:
                raise ValueError(f"{name} has changed since it was written")
        labels = read_array(directory / LABELS)
        files: list[NDArray[Any]] = []
        for number, rows in enumerate(unit_ranges(count, unit)):
            file = np.load(unit_path(directory, number), mmap_mode="r", allow_pickle=False)
            size = (len(rows), 4, *shape)
            if file.shape != size or file.dtype != np.float32:
                raise ValueError(f"{unit_path(directory, number).name} holds {file.dtype} {file.shape}, not {size}")
            files.append(file)
        if labels.shape != (count,) or labels.dtype != np.int64:
            raise ValueError(f"labels.npy holds {labels.dtype} {labels.shape}")
        recorded = read_class_table(content.get("classes", []))
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise many kinds
        raise InputError(f"{directory}: no whole set of latents ({first_line(error)}); {again}") from None
    digest = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
    names = {row["label"]: row["name"] for row in recorded if row["name"] is not None}
    of_labels = torch.from_numpy(labels)
    classes = class_table(of_labels, names)
    return Latents(tuple(files), shape, unit, of_labels, digest, classes)


def encode_latents(options: LatentsOptions) -> Latents:
    """Encode a data set; a run that was broken off goes on, and files of another checksum are made again.

    Raises:
        InputError: anything that cannot be had, images without labels, or a directory that holds another set.
    """
    out, resolution = options.out, options.resolution
    if resolution % VAE_DOWNSAMPLING or resolution < VAE_DOWNSAMPLING:
        raise InputError(f"resolution {resolution}: the autoencoder takes multiples of {VAE_DOWNSAMPLING}")
    check_device(options.device, torch.float32)
    with take_directory(out), arithmetic(options.threads, tf32=False):
        opened = open_labelled(options.data, resolution, options.data_root, options.split)
        classes = opened.classes
        status(f"data {options.data}: {describe_classes(classes)}")
        module = decoding.open_autoencoder(options.vae, options.device)
        side = resolution // 2 ** (len(module.config.block_out_channels) - 1)
        identity = {
            "data": options.data,
            "split": options.split,
            "preprocessing": opened.preprocessing,
            "resolution": resolution,
            "count": len(opened),
            "unit": options.unit,
            "vae_sha256": tensors_sha256(module.state_dict()),
            "shape": [LATENT_CHANNELS, side, side],
        }
        sums = _write_files(out, identity, module, opened, torch.device(options.device))
        content = {"schema_version": SCHEMA_VERSION, **identity, "classes": classes, "sha256": sums}
        content["record"] = environment_record()
        write_json(content, out / MANIFEST)
    status(f"{out}: latents of {len(opened)} images")
    return open_latents(out)


def _write_files(
    out: Path, identity: dict[str, Any], module: Any, opened: Images, device: torch.device
) -> dict[str, str]:
    """Write the labels and those units that an earlier run has not made; the checksums of all files."""
    sums = _earlier_sums(out, identity)
    _write(out / LABELS, opened.labels.numpy().astype(np.int64))
    sums[LABELS] = file_sha256(out / LABELS)
    units = list(unit_ranges(len(opened), identity["unit"]))
    for number, rows in enumerate(track(units, f"encoding {identity['data']}")):
        path = unit_path(out, number)
        if path.is_file() and sums.get(path.name) == file_sha256(path):
            continue
        _write(path, _moments(module, opened, rows, device))
        sums[path.name] = file_sha256(path)
        write_json({"identity": identity, "sha256": sums}, out / PROGRESS)
    return sums


def _earlier_sums(out: Path, identity: dict[str, Any]) -> dict[str, str]:
    """Checksums of the files that an earlier run of the same set has made."""
    path = out / PROGRESS
    if not path.is_file():
        return {}
    remedy = "remove it: the latents are encoded again"
    there = read_json(path, remedy, "identity", "sha256")
    if not all(isinstance(there[name], dict) for name in ("identity", "sha256")):
        raise InputError(f"{path}: no record of encoded units; {remedy}")
    check_same_run(out, there["identity"], identity)
    return dict(there["sha256"])


@torch.no_grad()
def _moments(module: Any, opened: Images, rows: range, device: torch.device) -> NDArray[np.float32]:
    """Mean and deviation of images and of their mirrored twins, (n, 4, C, S, S)."""
    chosen = torch.utils.data.Subset(opened, rows)
    # One process decodes pictures more slowly than a GPU encodes them.
    workers = min(os.cpu_count() or 1, 8) if device.type == "cuda" else 0
    parts = []
    for batch in torch.utils.data.DataLoader(chosen, ENCODED, num_workers=workers):
        x = preprocessing.to_model(batch).to(device)
        latents = [module.encode(images).latent_dist for images in (x, x.flip(-1))]
        parts.append(torch.stack([moment for each in latents for moment in (each.mean, each.std)], 1).float().cpu())
    moments: NDArray[np.float32] = torch.cat(parts).numpy()
    return moments


def _write(path: Path, array: NDArray[Any]) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, array)
