"""Drawing from the trained digits: which models `reproduce` compares, and routing that replaces the learned one."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench.data import preprocessing
from bench.machine import track
from bench.quality.features import digits_cnn
from bench.studies.catalogue import CONTROL, MIDDLE, SEEDS, stage_stem
from dydit import Diffusion, DiT, DyDiT, InputError, Routing, checkpoint, flops_ratio, generate
from dydit.ablations import RandomRouting

LAMBDAS = (0.7, 0.5)
SEED = SEEDS[0]
DIRECTORY = digits_cnn.DIGITS_WEIGHTS.parent
"""The committed checkpoints of the digits: of the middle size, seed 1."""
GUIDANCE_SCALE = 1.5

Rates = tuple[float, float, float]
Kind = Literal["learned", "random", "shuffled"]


class RoutedModel:
    """A DyDiT as a sampling model that keeps batch size, FLOPs ratio and rates of every call.

    With `routing` other than `learned`, masks drawn from `seed` replace the routers' own (see `Variant`); `random`
    needs `rates`.
    """

    def __init__(self, model: DyDiT, routing: Kind = "learned", seed: int = 0, rates: Rates | None = None) -> None:
        self.model = model
        self.kind = routing
        self.rates = rates
        self.generator = torch.Generator().manual_seed(seed)
        self.calls: list[tuple[int, float, Rates]] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        output, routing = self.model.route(x, t, y, self._drawn(len(x)))
        if self.kind == "shuffled":
            output, routing = self.model.route(x, t, y, routing.shuffled(self.generator))
        self.calls.append((len(x), flops_ratio(routing, self.model.config).mean().item(), routing.rates))
        return output

    def _drawn(self, images: int) -> Routing | None:
        if self.kind != "random":
            return None
        assert self.rates is not None, "random routing needs the learned run's rates"
        config = self.model.config
        return Routing.random((images, config.depth, config.num_heads, config.tokens), self.rates, self.generator)

    def means(self) -> tuple[float, Rates]:
        """FLOPs ratio and rates over all images and steps."""
        weights = torch.tensor([float(rows) for rows, _, _ in self.calls])
        values = torch.tensor([(ratio, *rates) for _, ratio, rates in self.calls])
        ratio, heads, groups, tokens = ((values * weights[:, None]).sum(0) / weights.sum()).tolist()
        return ratio, (heads, groups, tokens)


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


def compared_variants() -> tuple[Variant, ...]:
    """All models that the study scores, the static baseline first."""
    stem = functools.partial(stage_stem, MIDDLE, seed=SEED)
    dynamic = [
        Variant(f"DyDiT lambda={target}{suffix}", stem("both", target), routing)
        for target in LAMBDAS
        for routing, suffix in _SUFFIXES.items()
    ]
    control = Variant("DiT fine-tuned equally long", stem(CONTROL, None))
    return Variant("DiT", f"dit-{MIDDLE}"), control, *dynamic


@dataclass(frozen=True)
class Samples:
    """Generated digits uint8 (N, 1, 8, 8), their labels (N,), achieved FLOPs ratio and rates (None: static)."""

    images: Tensor
    labels: Tensor
    flops_ratio: float | None
    rates: Rates | None


def committed_file(target: float | None = None) -> Path:
    """The committed file of the static model, or of DyDiT at a lambda of `LAMBDAS`."""
    stem = f"dit-{MIDDLE}" if target is None else stage_stem(MIDDLE, "both", target, SEED)
    return DIRECTORY / f"{stem}.safetensors"


def load_stage(stage: str, directory: Path = DIRECTORY) -> DiT:
    """A trained model of the study.

    Raises:
        InputError: its file is missing or broken.
    """
    path = directory / f"{stage}.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train the study with `nox -s small_scale` or restore the file")
    model, found = checkpoint.load_model(path)
    if isinstance(model, RandomRouting):
        model.seed = int(found.record["seed"])
    return model


def draw_samples(
    variant: Variant, sampling: Sampling, directory: Path = DIRECTORY, rates: Rates | None = None
) -> Samples:
    """Draw guided digits from one model; image k has the same label and noise whatever the model.

    `rates` are those of the learned run, which `random` routing needs.
    """
    model = load_stage(variant.stage, directory)
    network: Any = RoutedModel(model, variant.routing, sampling.seed, rates) if isinstance(model, DyDiT) else model
    diffusion = Diffusion.linear().respaced(sampling.steps)
    config = model.config
    shape = (config.in_channels, config.input_size, config.input_size)
    batches = [
        range(start, min(start + sampling.batch_size, sampling.images))
        for start in range(0, sampling.images, sampling.batch_size)
    ]
    steps = iter(track(range(sampling.steps * len(batches)), f"sampling {variant.name}"))

    def advance(inner: Iterable[int]) -> Iterable[int]:
        for step in inner:
            next(steps, None)
            yield step

    drawn = [
        generate(
            network,
            diffusion,
            shape,
            config.num_classes,
            batch,
            seed=sampling.seed,
            scale=GUIDANCE_SCALE,
            track=advance,
        )
        for batch in batches
    ]
    next(steps, None)  # closes the bar
    ratio, used = network.means() if isinstance(network, RoutedModel) else (None, None)
    return Samples(
        images=preprocessing.to_uint8(torch.cat([images for images, _ in drawn])),
        labels=torch.cat([labels for _, labels in drawn]),
        flops_ratio=ratio,
        rates=used,
    )
