"""Small-scale studies: training what `bench.studies` describes, and drawing from the trained models of the digits.

Every trained file records the command, commit, seed, data checksum and parent that made it, and a file whose record
still fits is not made again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench import device_memory, digits, digits_cnn, environment, features
from bench.arithmetic import arithmetic
from bench.progress import status, track
from bench.studies import DIGITS, Stage, Study, TrainingSet
from dydit import checkpoint
from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError
from dydit.flops import flops_ratio
from dydit.importance import order_by_importance
from dydit.routing import Routing
from dydit.sampling import generate
from dydit.training import Recipe, StepLog, train

LAMBDAS = DIGITS.lambdas
DIRECTORY = digits_cnn.DIGITS_WEIGHTS.parent
"""The committed checkpoints of the digits."""
CLASSIFIER = digits_cnn.DIGITS_WEIGHTS.name
CLASSIFIER_EPOCHS = 60
GUIDANCE_SCALE = 1.5
THREADS = 2
"""Training fixes the thread count: floating-point sums depend on it."""


def train_all(
    study: Study, directory: Path, shorten: int = 1, *, device: str = "cpu", data_root: Path | None = None
) -> None:
    """Train every stage of a study into `directory` (safetensors), in order, and the digits' classifier with theirs.

    Files of an earlier, broken-off run with the same recipe, data and parent are kept; the stage that was broken off
    begins again.

    Args:
        study: what to train.
        directory: for the files `STAGE.safetensors`.
        shorten: divides every step count, for trials.
        device: cpu or cuda. On a GPU, matrix products take TF32 inputs, as the papers' training does.
        data_root: directory of the data set's files, where the study does not find them by itself.

    Raises:
        InputError: no such device or data, data that do not fit the network, or a training that diverged.
    """
    device_memory.check_device(device, torch.float32)
    made_by = provenance(device)  # once, before the first file written makes the tree look changed
    data = study.load(data_root)
    _check_fits(study, data)
    with arithmetic(THREADS, tf32=torch.device(device).type == "cuda"):
        if study.extractor == "digits-cnn":
            _train_classifier(study, directory / CLASSIFIER, data, max(CLASSIFIER_EPOCHS // shorten, 1), made_by)
        x, labels = digits.to_model(data.images).to(device), data.labels.to(device)
        for stage in study.stages(shorten):
            _make(stage, study, directory, data, (x, labels), made_by)


def _make(
    stage: Stage,
    study: Study,
    directory: Path,
    data: TrainingSet,
    given: tuple[Tensor, Tensor],
    made_by: dict[str, str],
) -> None:
    """Train one stage on images and labels that lie on their device, unless its file is made already."""
    path = directory / f"{stage.name}.safetensors"
    parent = directory / f"{stage.parent}.safetensors" if stage.parent else None
    identity = _identity(study, data, recipe_record(stage.recipe), parent)
    if _is_made(path, identity):
        status(f"{path.name}: kept, its recipe, data and parent are unchanged")
        return
    status(f"{path.name}: training for {stage.recipe.steps} steps")
    model, log = _train_stage(study, stage, parent, *given)
    tail = log[-max(len(log) // 10, 1) :]
    outcome = {
        "final_loss": f"{sum(entry.loss for entry in tail) / len(tail):.5f}",
        "final_ratio": f"{sum(entry.ratio for entry in tail) / len(tail):.4f}",
    }
    checkpoint.write(path, model, identity | made_by | outcome, dtype=study.dtype)
    status(f"{path.name}: loss {outcome['final_loss']}, FLOPs ratio in training {outcome['final_ratio']}")


def _check_fits(study: Study, data: TrainingSet) -> None:
    network = study.network
    wanted = (network.in_channels, network.input_size, network.input_size)
    shape, classes = tuple(data.images.shape[1:]), int(data.labels.max()) + 1
    if shape != wanted or classes > network.num_classes:
        raise InputError(
            f"{data.name}: images {shape} of {classes} classes; the study {study.name} trains on images {wanted} of "
            f"{network.num_classes}; give its own data set"
        )


def provenance(device: str = "cpu") -> dict[str, str]:
    """Command, commit and versions that a trained file records, and the GPU where one trained it."""
    record = environment.record()
    commit = f"{record['commit']}{' (dirty)' if record['dirty'] else ''}"
    made_by = {"command": record["command"], "commit": commit, "torch": record["torch"]["version"]}
    gpu = torch.device(device).type == "cuda"
    return made_by | ({"device": torch.cuda.get_device_name(device)} if gpu else {})


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


def variants() -> tuple[Variant, ...]:
    """All models that the study scores, the static baseline first."""
    dynamic = [
        Variant(f"DyDiT lambda={target}{suffix}", f"dydit-{target}", routing)
        for target in LAMBDAS
        for routing, suffix in _SUFFIXES.items()
    ]
    return Variant("DiT", "dit"), Variant("DiT fine-tuned equally long", "dit-control"), *dynamic


@dataclass(frozen=True)
class Samples:
    """Generated digits uint8 (N, 1, 8, 8), their labels (N,), achieved FLOPs ratio and rates (None: static)."""

    images: Tensor
    labels: Tensor
    flops_ratio: float | None
    rates: Rates | None


def load_stage(stage: str, directory: Path = DIRECTORY) -> DiT:
    """A trained model of the study.

    Raises:
        InputError: its file is missing or broken.
    """
    path = directory / f"{stage}.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train the study with `nox -s small_scale` or restore the file")
    return checkpoint.load_model(path)[0]


def sample(variant: Variant, sampling: Sampling, directory: Path = DIRECTORY, rates: Rates | None = None) -> Samples:
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
        images=digits.to_uint8(torch.cat([images for images, _ in drawn])),
        labels=torch.cat([labels for _, labels in drawn]),
        flops_ratio=ratio,
        rates=used,
    )


def _train_classifier(study: Study, path: Path, data: TrainingSet, epochs: int, made_by: dict[str, str]) -> None:
    identity = _identity(study, data, {"epochs": epochs, "seed": 0}, None)
    if _is_made(path, identity):
        status(f"{path.name}: kept, its recipe and data are unchanged")
        return
    bar: Callable[[range], Iterable[int]] = lambda epochs: track(epochs, "digits classifier")  # noqa: E731
    model = digits_cnn.train_digits_classifier(data.images, data.labels, seed=0, epochs=epochs, progress=bar)
    digits_cnn.save_digits_classifier(model, path, identity | made_by)


def _train_stage(
    study: Study, stage: Stage, parent: Path | None, x: Tensor, labels: Tensor
) -> tuple[DiT, list[StepLog]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.recipe.seed)
        model = (DiT if stage.recipe.target is None else DyDiT)(**study.network.kwargs())
    if parent is not None:
        checkpoint.load_into(model, checkpoint.read(parent), str(parent))
        order_by_importance(model)
    log: list[StepLog] = []
    bar = lambda steps: track(steps, f"training {stage.name}", total=stage.recipe.steps)  # noqa: E731
    return train(model.to(x.device), x, labels, stage.recipe, track=bar, on_step=log.append).cpu(), log


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a trained file records it; fields younger than the first files only where they are in use."""
    record = dataclasses.asdict(recipe)
    return {name: value for name, value in record.items() if name not in ("flip", "micro_batch") or value}


def _identity(study: Study, data: TrainingSet, recipe: dict[str, Any], parent: Path | None) -> dict[str, str]:
    """What decides the content of a trained file: recipe and seed, data, parent, network."""
    return {
        "recipe": json.dumps(recipe, sort_keys=True),
        "seed": str(recipe["seed"]),
        "data": data.name,
        "data_sha256": data.sha256,
        "network": json.dumps(study.network.kwargs(), sort_keys=True),
        "parent_sha256": features.file_sha256(parent) if parent else "",
    }


def _is_made(path: Path, identity: dict[str, str]) -> bool:
    if not path.is_file():
        return False
    record = checkpoint.read(path).record
    return all(record.get(key) == value for key, value in identity.items())
