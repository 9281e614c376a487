"""The small studies, one a data set: every model that is trained, and what it is trained on.

The study on the digits holds the paper's grid, its ablations, its controls and the questions of its reviewers at sizes
that two CPU cores train in an hour or so. CIFAR-10 needs a GPU and the data set; nothing of it is committed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.data import preprocessing
from bench.data.sets import digits, fashion
from bench.machine import track
from bench.quality.features import classifiers
from bench.quality.features.classifiers import ClassifierKind
from dydit import DiTConfig, InputError, model_config, nearest
from dydit.ablations import ABLATIONS
from dydit.training import FLOPS_WEIGHT, NO_ORDERING, NO_WARMUP, Recipe, apply_modifier

ROUTER_RATE = "router-rate-"
"""Prefix of runs with another factor on the routers' learning rate."""
STATIC, CONTROL, SCRATCH = "static", "control", "from-scratch"
"""Names of runs besides the ablations and the modifiers of recipes: the model that all others start from, the same
trained on without routers, and a DyDiT trained from nothing for as long as the two together."""


@dataclass(frozen=True)
class TrainingSet:
    """Images uint8 (N, C, S, S), labels int64 (N,), and the name and SHA-256 that trained files record of them."""

    images: Tensor
    labels: Tensor
    name: str
    sha256: str

    @property
    def x(self) -> Tensor:
        """The images as models take them, float32 in [-1, 1]."""
        return preprocessing.to_model(self.images)


@dataclass(frozen=True)
class Stage:
    """One training: its file stem, what is trained, and by which recipe.

    Args:
        name: stem of the file.
        size: name of the network among those of its study.
        network: the architecture.
        run: `STATIC`, `CONTROL`, `SCRATCH`, or an ablation of network or training; `both` is the paper's method. Or a
            method of `dydit.baselines` that makes a smaller network of the parent, such as `prune:taylor:0.5`.
        recipe: the schedule; its seed tells repetitions apart.
        parent: the stage whose weights it starts from (None: random ones).
        rates_of: for random routing, the stage whose learned rates it takes.
    """

    name: str
    size: str
    network: DiTConfig
    run: str
    recipe: Recipe
    parent: str | None = None
    rates_of: str | None = None

    @property
    def kind(self) -> str:
        """Name of the network among `dydit.ablations`, or `STATIC`."""
        if self.recipe.target is None:
            return STATIC
        return self.run if self.run in ABLATIONS else "both"

    @property
    def ordered(self) -> bool:
        """Whether heads and channels are ordered by importance first."""
        return self.parent is not None and self.run != NO_ORDERING

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the stages whose files must be there before."""
        return tuple(name for name in (self.parent, self.rates_of) if name is not None)


@dataclass(frozen=True)
class Study:
    """What is trained on one data set, parents before children, and what scores it.

    `load` reads the training set from a directory, or from where the data set is found by itself. `dtype` is that of
    the stored weights. `extractor` is the one of the claims; where the study trains it, `classifier` says how.
    `reference` loads the real images and their labels that generated ones are compared with, if not the training set.
    """

    name: str
    stages: tuple[Stage, ...]
    load: Callable[[Path | None], TrainingSet]
    dtype: torch.dtype
    extractor: str
    classifier: ClassifierKind | None = None
    reference: Callable[[Path | None], tuple[Tensor, Tensor]] | None = None

    def shortened(self, by: int) -> Study:
        """The same study with every count of steps and epochs divided, for trials."""
        if by == 1:
            return self
        stages = (dataclasses.replace(stage, recipe=_shortened(stage.recipe, by)) for stage in self.stages)
        kind = self.classifier
        short = kind and dataclasses.replace(kind, epochs=max(kind.epochs // by, 1))
        return dataclasses.replace(self, stages=tuple(stages), classifier=short)

    def only(self, names: Iterable[str]) -> Study:
        """The named stages and what they need.

        Raises:
            InputError: no such stage; the nearest are offered.
        """
        wanted, known = set(names), [stage.name for stage in self.stages]
        for name in sorted(wanted.difference(known)):
            raise InputError(f"no stage {name!r} in {self.name}; nearest names: {', '.join(nearest(name, known))}")
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted.update(stage.needs)
        return dataclasses.replace(self, stages=tuple(stage for stage in self.stages if stage.name in wanted))


def _shortened(recipe: Recipe, by: int) -> Recipe:
    """The recipe with its whole schedule divided, at least one step long."""
    hold = recipe.target_hold // by
    return dataclasses.replace(
        recipe,
        steps=max(recipe.steps // by, 1),
        complete_warmup=recipe.complete_warmup // by,
        target_hold=hold,
        target_reached=max(recipe.target_reached // by, hold + 1),
        double_steps=recipe.double_steps // by,
    )


def _digits(_: Path | None) -> TrainingSet:
    data = digits.load_digits()
    return TrainingSet(data.images, data.labels, "scikit-learn digits", digits.checksum())


def _cifar10(data_root: Path | None) -> TrainingSet:
    from bench.data.sets.opening import open_dataset

    data = open_dataset("cifar10", "train", data_root=data_root)
    images = torch.stack([data[index] for index in track(range(len(data)), "reading cifar10")])
    digest = hashlib.sha256(images.numpy().tobytes())
    digest.update(data.labels.numpy().astype("<i8").tobytes())
    return TrainingSet(images, data.labels, "cifar10 train", digest.hexdigest())


# The digits


SEEDS = (1, 2, 3)
SIZES = {
    name: DiTConfig(
        input_size=8, patch_size=2, in_channels=1, hidden_size=width, depth=depth, num_heads=6, num_classes=10
    )
    for name, width, depth in (("s", 48, 3), ("m", 72, 4), ("l", 96, 6))
}
"""Networks of the study on digits: 0.15, 0.42 and 1.07 million parameters."""
SMALLEST, MIDDLE, LARGEST = SIZES
LAMBDAS = (0.9, 0.7, 0.5, 0.3)
LARGEST_LAMBDA = 0.8
"""Besides `LAMBDAS`, on the largest size: the paper prints nothing above 0.7 for XL."""
ABLATION_LAMBDA = 0.5
SDT_LAMBDAS = (0.9, 0.7, 0.5, 0.4)
"""Where SDT alone is followed down; it cannot go below 0.35."""
TRAININGS = (
    NO_WARMUP,
    NO_ORDERING,
    f"{FLOPS_WEIGHT}0.5",
    f"{FLOPS_WEIGHT}8",
)

_STATIC = Recipe(steps=3000, batch_size=64, seed=0, learning_rate=1e-3, ema_decay=0.998)
_CONTROL = Recipe(steps=1000, batch_size=64, seed=0, learning_rate=5e-4, ema_decay=0.98)
# The paper's recipe scaled down: complete-model warm-up for 15 % of the steps (30k of 200k there), the FLOPs target
# held and then lowered over the first quarter. Routers can travel 20, as far as in the paper: 1,000 steps x 5e-4 x 40.
_DYNAMIC = dataclasses.replace(
    _CONTROL,
    complete_warmup=150,
    target_hold=25,
    target_reached=250,
    gradient_limit=200.0,
    router_learning_rate=40.0,
)
# From nothing: as many steps as static model and fine-tuning together, at the learning rate of the former; routers
# travel 20 here, too: 4,000 steps x 1e-3 x 5.
_SCRATCH = dataclasses.replace(
    _DYNAMIC,
    steps=_STATIC.steps + _CONTROL.steps,
    learning_rate=_STATIC.learning_rate,
    ema_decay=_STATIC.ema_decay,
    complete_warmup=0,
    router_learning_rate=5.0,
)


def _digits_stages() -> Iterator[Stage]:
    for size, network in SIZES.items():
        yield Stage(f"dit-{size}", size, network, STATIC, _STATIC)
    for seed in SEEDS:  # early, because they take longest
        yield _digits_stage(MIDDLE, SCRATCH, ABLATION_LAMBDA, seed, _SCRATCH)
    for size in SIZES:
        for seed in SEEDS:
            yield _digits_stage(size, CONTROL, None, seed, _CONTROL)
            lambdas = (*LAMBDAS, LARGEST_LAMBDA) if size == LARGEST else LAMBDAS
            for target in lambdas:
                yield _digits_stage(size, "both", target, seed, _DYNAMIC)
    for seed in SEEDS:
        for run in ("tdw-only", "sdt-only"):  # also here, since the largest size alone closes tokens beside widths
            yield _digits_stage(LARGEST, run, ABLATION_LAMBDA, seed, _DYNAMIC)
        for run in ("tdw-only", "random", "layer-skip", "layer-skip-only", "token-skip-attention"):
            yield _digits_stage(MIDDLE, run, ABLATION_LAMBDA, seed, _DYNAMIC)
        for target in SDT_LAMBDAS:
            yield _digits_stage(MIDDLE, "sdt-only", target, seed, _DYNAMIC)
        yield _digits_stage(MIDDLE, "soft-gated", 1.0, seed, _DYNAMIC)
        for run in TRAININGS:
            yield _digits_stage(MIDDLE, run, ABLATION_LAMBDA, seed, apply_modifier(_DYNAMIC, run)[0])


def _digits_stage(size: str, run: str, target: float | None, seed: int, recipe: Recipe) -> Stage:
    return _fine_tuned(SIZES, size, run, target, seed, recipe)


def _fine_tuned(
    networks: Mapping[str, DiTConfig], size: str, run: str, target: float | None, seed: int, recipe: Recipe
) -> Stage:
    """A stage that starts from the static model of its size, or, where it is `SCRATCH`, from nothing."""
    return Stage(
        stage_stem(size, run, target, seed),
        size,
        networks[size],
        run,
        dataclasses.replace(recipe, target=target, seed=seed),
        None if run == SCRATCH else f"dit-{size}",
        stage_stem(size, "both", target, seed) if run == "random" else None,
    )


def stage_stem(size: str, run: str, target: float | None, seed: int) -> str:
    """File stem of a fine-tuned model: `dydit-m-0.5-s1`, `dydit-m-tdw-only-0.5-s1`, `dit-m-control-s1`."""
    if run == CONTROL:
        return f"dit-{size}-control-s{seed}"
    middle = "" if run == "both" else f"{run}-"
    return f"dydit-{size}-{middle}{target}-s{seed}"


DIGITS = Study("digits", tuple(_digits_stages()), _digits, torch.float16, classifiers.DIGITS.name, classifiers.DIGITS)


# CIFAR-10


# AdamW at 1e-4 without weight decay, EMA 0.9999 and horizontal flip are the papers'. The batch is half of theirs: 128
# of 50,000 images are still a larger share of the data than 256 of ImageNet's 1.28 million.
_CIFAR10_FINETUNE = Recipe(steps=50_000, batch_size=128, seed=2, flip=True)
# 50k steps and no complete-model warm-up: what the DyDiT paper gives size S (Table 7). The course of the FLOPs target
# and the gradient limit are those of the released script for lambda 0.5.
_CIFAR10_DYNAMIC = dataclasses.replace(_CIFAR10_FINETUNE, target_hold=100, target_reached=1000, gradient_limit=200.0)
# 400k steps, as the DiT paper compares its sizes: 1,024 passes over the data.
_CIFAR10_STATIC = Recipe(steps=400_000, batch_size=128, seed=1, flip=True)


def _cifar10_stages() -> Iterator[Stage]:
    size, network = "s", model_config("DiT-S/2-cifar10")
    yield Stage("dit", size, network, STATIC, _CIFAR10_STATIC)
    yield Stage("dit-control", size, network, CONTROL, _CIFAR10_FINETUNE, "dit")
    for target in (0.7, 0.5):
        recipe = dataclasses.replace(_CIFAR10_DYNAMIC, target=target)
        yield Stage(f"dydit-{target}", size, network, "both", recipe, "dit")


CIFAR10 = Study("cifar10", tuple(_cifar10_stages()), _cifar10, torch.float32, "inception-v3-compat")

# Fashion-MNIST


FASHION_SIZE = "f"
FASHION_NETWORKS = {
    FASHION_SIZE: DiTConfig(
        input_size=32, patch_size=4, in_channels=1, hidden_size=96, depth=6, num_heads=6, num_classes=10
    )
}
"""One size: 64 tokens, 1.06 million parameters."""
FASHION_LAMBDAS = (0.7, 0.5)
FASHION_ROUTER_RATES = (1.0, 10.0)
"""Factors on the routers' learning rate beside that of the study."""
_FASHION_STATIC = Recipe(steps=16_000, batch_size=64, seed=0, learning_rate=1e-3, ema_decay=0.999)


def _fashion_images(split: str, data_root: Path | None) -> tuple[Tensor, Tensor]:
    from bench.data.sets.opening import open_dataset

    data = open_dataset(fashion.NAME, split, data_root=data_root)
    images = torch.stack([data[index][:1] for index in track(range(len(data)), f"reading fashion {split}")])
    fashion.check_published(images, data.labels, split, data.name)
    return images, data.labels


def _fashion(data_root: Path | None) -> TrainingSet:
    return TrainingSet(*_fashion_images("train", data_root), "fashion_mnist train", fashion.checksum("train"))


def _fashion_test(data_root: Path | None) -> tuple[Tensor, Tensor]:
    return _fashion_images("test", data_root)


def _fashion_stages() -> Iterator[Stage]:
    yield Stage(f"dit-{FASHION_SIZE}", FASHION_SIZE, FASHION_NETWORKS[FASHION_SIZE], STATIC, _FASHION_STATIC)
    runs: list[tuple[str, float | None, Recipe]] = [
        (CONTROL, None, _CONTROL),
        *(("both", target, _DYNAMIC) for target in FASHION_LAMBDAS),
        ("tdw-only", 0.5, _DYNAMIC),
        ("sdt-only", 0.7, _DYNAMIC),
        ("random", 0.5, _DYNAMIC),
        ("layer-skip", 0.5, _DYNAMIC),
        ("token-skip-attention", 0.5, _DYNAMIC),
        ("soft-gated", 1.0, _DYNAMIC),
        *(
            (f"{ROUTER_RATE}{factor:g}", 0.5, dataclasses.replace(_DYNAMIC, router_learning_rate=factor))
            for factor in FASHION_ROUTER_RATES
        ),
    ]
    for seed in SEEDS:
        for run, target, recipe in runs:
            yield _fine_tuned(FASHION_NETWORKS, FASHION_SIZE, run, target, seed, recipe)


FASHION = Study(
    "fashion",
    tuple(_fashion_stages()),
    _fashion,
    torch.float16,
    classifiers.FASHION.name,
    classifiers.FASHION,
    _fashion_test,
)

_FINE_SIZE = "g"


def _fine_stages() -> Iterator[Stage]:
    network = dataclasses.replace(FASHION_NETWORKS[FASHION_SIZE], patch_size=2)
    yield Stage(f"dit-{_FINE_SIZE}", _FINE_SIZE, network, STATIC, _FASHION_STATIC)
    yield _fine_tuned({_FINE_SIZE: network}, _FINE_SIZE, "both", ABLATION_LAMBDA, SEEDS[0], _DYNAMIC)


FASHION_256 = dataclasses.replace(FASHION, name="fashion-256", stages=tuple(_fine_stages()))
"""The same images in 256 tokens (patch 2), as many as DiT has on ImageNet: one training, so without findings."""

STUDIES = {study.name: study for study in (DIGITS, CIFAR10, FASHION, FASHION_256)}


def find_study(name: str) -> Study:
    """A study by the name of its data set.

    Raises:
        InputError: no such study; the known ones are listed.
    """
    if name not in STUDIES:
        raise InputError(f"small-scale study {name!r}: choose one of {', '.join(STUDIES)}")
    return STUDIES[name]
