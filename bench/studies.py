"""The small studies, one a data set: network, recipes, data, and the extractor that scores them.

The digits train in minutes on a CPU, and their trained files are committed. CIFAR-10 needs a GPU and the data set;
nothing of it is committed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench import digits
from bench.progress import track
from dydit.config import DiTConfig, model_config
from dydit.errors import InputError
from dydit.training import Recipe


@dataclass(frozen=True)
class TrainingSet:
    """Images uint8 (N, C, S, S), labels int64 (N,), and the name and SHA-256 that trained files record of them."""

    images: Tensor
    labels: Tensor
    name: str
    sha256: str


@dataclass(frozen=True)
class Stage:
    """One trained model: its file stem, the stage whose weights it starts from, and its recipe."""

    name: str
    parent: str | None
    recipe: Recipe


@dataclass(frozen=True)
class Study:
    """What is trained on one data set, and what scores it.

    `static` trains a DiT from nothing, `control` goes on with it, and `dynamic`, once a lambda, fine-tunes a DyDiT from
    it for as long. `load` reads the training set from a directory, or from where the data set is found by itself.
    `dtype` is that of the stored weights; `extractor` is the one of the claims.
    """

    name: str
    network: DiTConfig
    lambdas: tuple[float, ...]
    static: Recipe
    control: Recipe
    dynamic: Recipe
    load: Callable[[Path | None], TrainingSet]
    dtype: torch.dtype
    extractor: str

    def stages(self, shorten: int = 1) -> tuple[Stage, ...]:
        """The models in training order; `shorten` divides every step count, for trials."""
        return (
            Stage("dit", None, _shortened(self.static, shorten)),
            Stage("dit-control", "dit", _shortened(self.control, shorten)),
            *(
                Stage(f"dydit-{target}", "dit", _shortened(dataclasses.replace(self.dynamic, target=target), shorten))
                for target in self.lambdas
            ),
        )


def _shortened(recipe: Recipe, by: int) -> Recipe:
    """The recipe with its whole schedule divided, at least one step long."""
    hold = recipe.target_hold // by
    return dataclasses.replace(
        recipe,
        steps=max(recipe.steps // by, 1),
        complete_warmup=recipe.complete_warmup // by,
        target_hold=hold,
        target_reached=max(recipe.target_reached // by, hold + 1),
    )


def _digits(_: Path | None) -> TrainingSet:
    data = digits.load()
    return TrainingSet(data.images, data.labels, "scikit-learn digits", digits.checksum())


def _cifar10(data_root: Path | None) -> TrainingSet:
    from bench import datasets

    data = datasets.open_dataset("cifar10", "train", data_root=data_root)
    images = torch.stack([data[index] for index in track(range(len(data)), "reading cifar10")])
    digest = hashlib.sha256(images.numpy().tobytes())
    digest.update(data.labels.numpy().astype("<i8").tobytes())
    return TrainingSet(images, data.labels, "cifar10 train", digest.hexdigest())


_DIGITS_FINETUNE = Recipe(steps=2000, batch_size=128, seed=2, learning_rate=3e-4, ema_decay=0.997)

DIGITS = Study(
    name="digits",
    network=DiTConfig(input_size=8, patch_size=2, in_channels=1, hidden_size=96, depth=4, num_heads=6, num_classes=10),
    lambdas=(0.7, 0.5),
    static=Recipe(steps=6000, batch_size=128, seed=1, learning_rate=1e-3, ema_decay=0.999),
    control=_DIGITS_FINETUNE,
    # The paper's recipe scaled down: complete-model warm-up for 15 % of the steps (30k of 200k there), the FLOPs target
    # held and then lowered over the first quarter.
    dynamic=dataclasses.replace(
        _DIGITS_FINETUNE, complete_warmup=300, target_hold=50, target_reached=500, gradient_limit=200.0
    ),
    load=_digits,
    dtype=torch.float16,
    extractor="digits-cnn",
)

# AdamW at 1e-4 without weight decay, EMA 0.9999 and horizontal flip are the papers'. The batch is half of theirs: 128
# of 50,000 images are still a larger share of the data than 256 of ImageNet's 1.28 million.
_CIFAR10_FINETUNE = Recipe(steps=50_000, batch_size=128, seed=2, flip=True)

CIFAR10 = Study(
    name="cifar10",
    network=model_config("DiT-S/2-cifar10"),
    lambdas=(0.7, 0.5),
    # 400k steps, as the DiT paper compares its sizes: 1,024 passes over the data.
    static=Recipe(steps=400_000, batch_size=128, seed=1, flip=True),
    # 50k steps and no complete-model warm-up: what the DyDiT paper gives size S (Table 7). The course of the FLOPs
    # target and the gradient limit are those of the released script for lambda 0.5.
    control=_CIFAR10_FINETUNE,
    dynamic=dataclasses.replace(_CIFAR10_FINETUNE, target_hold=100, target_reached=1000, gradient_limit=200.0),
    load=_cifar10,
    dtype=torch.float32,
    extractor="inception-v3-compat",
)

STUDIES = {study.name: study for study in (DIGITS, CIFAR10)}


def find(name: str) -> Study:
    """A study by the name of its data set.

    Raises:
        InputError: no such study; the known ones are listed.
    """
    if name not in STUDIES:
        raise InputError(f"small-scale study {name!r}: choose one of {', '.join(STUDIES)}")
    return STUDIES[name]
