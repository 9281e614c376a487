"""What `bench finetune` trains on: an image set for models of pixels, or latents that were encoded before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.data import preprocessing
from bench.data.image_set import Entry
from bench.data.sources import open_labelled
from bench.generation.decoding import LATENT_CHANNELS
from bench.machine import track
from bench.training import latents
from dydit import DiTConfig, InputError
from dydit.training import Data, mirror_images


@dataclass(frozen=True)
class Pixels:
    """Images uint8 (N, C, S, S) and labels int64 (N,) in memory; a batch of them is float32 in [-1, 1]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """As `dydit.training.Data.batch`."""
        return mirror_images(preprocessing.to_model(self.images[rows]), mirror), self.labels[rows]


@dataclass(frozen=True)
class TrainingData:
    """Rows to train on, with the name, SHA-256 and classes that trained files record of them."""

    data: Data
    name: str
    sha256: str
    classes: list[Entry]


def open_data(source: str, config: DiTConfig, data_root: Path | None = None) -> TrainingData:
    """The training data that a network of `config` takes.

    Args:
        source: `digits` or another data set of `bench.data.sets.opening`, a folder with one folder of pictures per
            class, a generated set, an .npz; or, for a model of latents, a directory that `python -m bench latents`
            wrote.
        config: of the network; its input decides the resolution.
        data_root: local copies of data sets, as in `bench.data.sets.opening.open_dataset`.

    Raises:
        InputError: nothing there, no labels, more classes than the network has, images smaller than its input, or
            images for a model of latents.
    """
    encoded = (Path(source) / latents.MANIFEST).is_file()
    data, sha256, labels, told = _latents(source, config) if encoded else _pixels(source, config, data_root)
    first, classes = int(labels.min()), int(labels.max()) + 1
    if first < 0 or classes > config.num_classes:
        raise InputError(
            f"data {source}: labels {first} to {classes - 1}, the network has {config.num_classes} classes; "
            f"give --new-classes {classes} for a label table of its own, or another data set"
        )
    return TrainingData(data, source, sha256, told)


def _latents(source: str, config: DiTConfig) -> tuple[Data, str, Tensor, list[Entry]]:
    opened = latents.open_latents(Path(source))
    shape, wanted = opened.shape, (config.in_channels, config.input_size, config.input_size)
    if shape != wanted:
        raise InputError(f"data {source}: latents {shape}, the network takes {wanted}; encode at its resolution")
    return opened, opened.sha256, opened.labels, opened.classes


def _pixels(source: str, config: DiTConfig, data_root: Path | None) -> tuple[Data, str, Tensor, list[Entry]]:
    if config.in_channels == LATENT_CHANNELS:
        if Path(source).is_dir() and any(Path(source).rglob("*.npy")):
            raise InputError(
                f"data {source}: holds .npy files, such as latents that another tool encoded, which are not read here; "
                "encode the images themselves with `python -m bench latents --data IMAGES --out DIR`"
            )
        raise InputError(
            f"data {source}: the network takes latents; encode the images once with "
            f"`python -m bench latents --data {source} --out DIR` and give that directory"
        )
    opened = open_labelled(source, config.input_size, data_root)
    pixels = torch.stack([opened[index] for index in track(range(len(opened)), f"reading {source}")])
    if config.in_channels == 1:  # `Images` repeats grey
        if not torch.equal(pixels, pixels[:, :1].expand_as(pixels)):
            raise InputError(f"data {source}: colour pictures; the network takes grey ones, of one channel")
        pixels = pixels[:, :1].contiguous()
    labels = opened.labels
    digest = hashlib.sha256(pixels.numpy().tobytes())
    digest.update(labels.numpy().astype("<i8").tobytes())
    return Pixels(pixels, labels), digest.hexdigest(), labels, opened.classes
