"""Drawing from trained studies: which models `reproduce` compares, and routing that replaces the learned one."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench.data import preprocessing
from bench.machine import track
from bench.quality.features import extractor
from bench.records import check_listed
from bench.studies.catalogue import CONTROL, DIGITS, FASHION, FASHION_SIZE, MIDDLE, SEEDS, Study, stage_stem
from dydit import (
    Diffusion,
    DiT,
    DiTConfig,
    DyDiT,
    InputError,
    Model,
    Observation,
    ObservedSampling,
    Routing,
    checkpoint,
    draw_in_batches,
    flops_ratio,
    generate,
    guidance_branches,
)
from dydit.ablations import RandomRouting
from dydit.observation import Route
from dydit.sampling import Track

LAMBDAS = (0.7, 0.5)
SEED = SEEDS[0]
GUIDANCE_SCALE = 1.5

Rates = tuple[float, float, float]
Kind = Literal["learned", "random", "shuffled"]


def routed(model: DyDiT, kind: Kind, seed: int, rates: Rates | None) -> Route:
    """The model's `route`, or one in which masks drawn from `seed` replace its routers' own (see `Variant`).

    `random` needs `rates`, those of the learned run.
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def at_random(x: Tensor, t: Tensor | int, y: Tensor) -> tuple[Tensor, Routing]:
        assert rates is not None, "random routing needs the learned run's rates"
        shape = (len(x), config.depth, config.num_heads, config.tokens)
        return model.route(x, t, y, Routing.random(shape, rates, generator))

    def shuffled(x: Tensor, t: Tensor | int, y: Tensor) -> tuple[Tensor, Routing]:
        _, learned = model.route(x, t, y)
        return model.route(x, t, y, learned.shuffled(generator))

    routes: dict[Kind, Route] = {"learned": model.route, "random": at_random, "shuffled": shuffled}
    return routes[kind]


class MeanRouting:
    """Adds up FLOPs ratio and rates over all images, steps and guidance branches of a run."""

    def __init__(self, config: DiTConfig) -> None:
        self.config = config
        self._calls: list[tuple[range, Tensor, Rates]] = []  # images, their FLOPs ratios (n,), rates

    def add(self, observed: Observation) -> None:
        """Count one step of a batch."""
        ratios = flops_ratio(observed.routing, self.config).double().view(-1, len(observed.indices)).mean(0)
        self._calls.append((observed.indices, ratios.cpu(), observed.routing.rates))

    def mean_rates(self) -> Rates:
        """Rates of heads, channel groups and tokens, mean over all images and steps."""
        weights = torch.tensor([float(len(indices)) for indices, _, _ in self._calls])
        values = torch.tensor([rates for _, _, rates in self._calls])
        heads, groups, tokens = ((values * weights[:, None]).sum(0) / weights.sum()).tolist()
        return heads, groups, tokens

    def image_ratios(self) -> Tensor:
        """FLOPs ratio of every image (N,), float64: mean over the steps and guidance branches."""
        images = max(indices.stop for indices, _, _ in self._calls)
        sums, counts = torch.zeros(images, dtype=torch.float64), torch.zeros(images, dtype=torch.float64)
        for indices, ratios, _ in self._calls:
            rows = slice(indices.start, indices.stop)
            sums[rows] += ratios
            counts[rows] += 1
        return sums / counts


@dataclass(frozen=True)
class Sampling:
    """How images are drawn: count, DDPM steps, seed; guidance as in the paper's headline rows."""

    images: int
    steps: int
    seed: int = 0
    batch_size: int = 300


@dataclass(frozen=True)
class Variant:
    """A model of the study as it is sampled: `stage` names its file.

    `routing` is `learned`; `random`, at the learned run's overall rates; or `shuffled`, at its rates in every block and
    step, so that only the places are random.
    """

    name: str
    stage: str
    routing: Kind = "learned"


_SUFFIXES: dict[Kind, str] = {
    "learned": "",
    "random": ", random routing",
    "shuffled": ", shuffled routing",
}


@dataclass(frozen=True)
class Shipped:
    """The models of a study that come with the project: one size, one seed, lambda 0.7 and 0.5.

    `routings` are those that replace the learned one, too.
    """

    study: Study
    size: str
    routings: tuple[Kind, ...]

    @property
    def directory(self) -> Path:
        """Where the files lie."""
        assert self.study.classifier is not None, f"{self.study.name}: no classifier to score it"
        return self.study.classifier.weights.parent

    def weights(self, directory: Path) -> Path:
        """The weights of the extractor that scores the models in a directory.

        Raises:
            InputError: they are missing or broken.
        """
        assert self.study.classifier is not None, f"{self.study.name}: no classifier to score it"
        return extractor(self.study.extractor).weights(directory / self.study.classifier.weights.name).path

    def variants(self) -> tuple[Variant, ...]:
        """All models that are compared, the static baseline first."""
        stem = functools.partial(stage_stem, self.size, seed=SEED)
        dynamic = [
            Variant(f"DyDiT lambda={target}{_SUFFIXES[routing]}", stem("both", target), routing)
            for target in LAMBDAS
            for routing in self.routings
        ]
        control = Variant("DiT fine-tuned equally long", stem(CONTROL, None))
        return Variant("DiT", f"dit-{self.size}"), control, *dynamic


SHIPPED_DIGITS = Shipped(DIGITS, MIDDLE, ("learned", "random", "shuffled"))
SHIPPED_FASHION = Shipped(FASHION, FASHION_SIZE, ("learned", "shuffled"))
DIRECTORY = SHIPPED_DIGITS.directory
"""The checkpoints of the digits that come with the project."""


def compared_variants() -> tuple[Variant, ...]:
    """All models of the digits that are compared, the static baseline first."""
    return SHIPPED_DIGITS.variants()


@dataclass(frozen=True)
class Samples:
    """Generated images uint8 (N, 1, S, S), their labels (N,), their FLOPs ratios (N,) and rates (None: static)."""

    images: Tensor
    labels: Tensor
    flops_ratios: Tensor | None
    rates: Rates | None

    @property
    def flops_ratio(self) -> float | None:
        """The achieved FLOPs ratio, mean over the images (None: static)."""
        return None if self.flops_ratios is None else self.flops_ratios.mean().item()


def committed_file(target: float | None = None) -> Path:
    """The committed file of the static model, or of DyDiT at a lambda of `LAMBDAS`."""
    stem = f"dit-{MIDDLE}" if target is None else stage_stem(MIDDLE, "both", target, SEED)
    return DIRECTORY / f"{stem}.safetensors"


def load_stage(stage: str, directory: Path = DIRECTORY) -> DiT:
    """A trained model of the study.

    Raises:
        InputError: its file is missing or broken, or is not the one that the project ships.
    """
    path = directory / f"{stage}.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train the study with `nox -s small_scale` or restore the file")
    check_listed(path)
    model, found = checkpoint.load_model(path)
    record = found.record
    if isinstance(model, RandomRouting):
        model.seed = int(record["seed"])
    return model


def draw_samples(
    variant: Variant, sampling: Sampling, directory: Path = DIRECTORY, rates: Rates | None = None
) -> Samples:
    """Draw guided images from one model; image k has the same label and noise whatever the model.

    `rates` are those of the learned run, which `random` routing needs.
    """
    model = load_stage(variant.stage, directory)
    config = model.config
    diffusion = Diffusion.linear().respaced(sampling.steps)
    routing = MeanRouting(config)
    network: Model = model
    if isinstance(model, DyDiT):
        route = routed(model, variant.routing, sampling.seed, rates)
        network = ObservedSampling(route, sampling.steps, guidance_branches(GUIDANCE_SCALE), routing.add)

    def draw_batch(indices: range, steps: Track) -> tuple[Tensor, Tensor]:
        shape = (config.in_channels, config.input_size, config.input_size)
        return generate(
            network,
            diffusion,
            shape,
            config.num_classes,
            indices,
            seed=sampling.seed,
            scale=GUIDANCE_SCALE,
            track=steps,
        )

    label = f"sampling {variant.name}"
    batches = draw_in_batches(
        draw_batch, sampling.images, sampling.batch_size, sampling.steps, lambda steps: track(steps, label)
    )
    drawn = [(x, y) for _, x, y in batches]
    dynamic = isinstance(model, DyDiT)
    return Samples(
        images=preprocessing.to_uint8(torch.cat([images for images, _ in drawn])),
        labels=torch.cat([labels for _, labels in drawn]),
        flops_ratios=routing.image_ratios() if dynamic else None,
        rates=routing.mean_rates() if dynamic else None,
    )
