"""The study on handwritten digits: a tiny DiT, DyDiT fine-tuned from it, and the controls, all trained here.

What is trained is fixed by `stages`; every file records the command, commit, seed, data checksum and parent that made
it, and a file whose record still fits is not made again.
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

from bench import digits, environment, features
from bench.progress import status, track
from dydit import checkpoint
from dydit.config import DiTConfig
from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError
from dydit.flops import flops_ratio
from dydit.importance import order_by_importance
from dydit.routing import Routing
from dydit.sampling import generate
from dydit.training import Recipe, StepLog, train

CONFIG = DiTConfig(input_size=8, patch_size=2, in_channels=1, hidden_size=96, depth=4, num_heads=6, num_classes=10)
LAMBDAS = (0.7, 0.5)
DIRECTORY = features.DIGITS_WEIGHTS.parent
"""The committed checkpoints."""
CLASSIFIER = features.DIGITS_WEIGHTS.name
CLASSIFIER_EPOCHS = 60
GUIDANCE_SCALE = 1.5
THREADS = 2
"""Training fixes the thread count: floating-point sums depend on it."""

_STATIC = Recipe(steps=6000, batch_size=128, seed=1, learning_rate=1e-3, ema_decay=0.999)
_FINETUNE = Recipe(steps=2000, batch_size=128, seed=2, learning_rate=3e-4, ema_decay=0.997)


@dataclass(frozen=True)
class Stage:
    """One trained model: its file stem, the stage whose weights it starts from, and its recipe."""

    name: str
    parent: str | None
    recipe: Recipe


def stages(shorten: int = 1) -> tuple[Stage, ...]:
    """The models in training order; `shorten` divides every step count, for tests.

    Fine-tuning is the paper's recipe scaled down: complete-model warm-up for 15 % of the steps (30k of 200k there),
    the FLOPs target held and then lowered over the first quarter, EMA, stratified timesteps.
    """
    static = dataclasses.replace(_STATIC, steps=max(_STATIC.steps // shorten, 1))
    control = dataclasses.replace(_FINETUNE, steps=max(_FINETUNE.steps // shorten, 1))
    dynamic = dataclasses.replace(
        control,
        complete_warmup=control.steps * 15 // 100,
        target_hold=control.steps // 40,
        target_reached=max(control.steps // 4, 1),
        gradient_limit=200.0,
    )
    return (
        Stage("dit", None, static),
        Stage("dit-control", "dit", control),
        *(Stage(f"dydit-{target}", "dit", dataclasses.replace(dynamic, target=target)) for target in LAMBDAS),
    )


def train_all(directory: Path, shorten: int = 1) -> None:
    """Train the classifier and every stage into `directory` (safetensors, half precision), in order.

    Files of an earlier, broken-off run with the same recipe, data and parent are kept.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        _train_all(directory, shorten)
    finally:
        torch.set_num_threads(before)


def _train_all(directory: Path, shorten: int) -> None:
    made_by = provenance()  # once, before the first file written makes the tree look changed
    data = digits.load()
    _train_classifier(directory / CLASSIFIER, data, max(CLASSIFIER_EPOCHS // shorten, 1), made_by)
    x = digits.to_model(data.images)
    for stage in stages(shorten):
        path = directory / f"{stage.name}.safetensors"
        parent = directory / f"{stage.parent}.safetensors" if stage.parent else None
        identity = _identity(dataclasses.asdict(stage.recipe), parent)
        if _is_made(path, identity):
            status(f"{path.name}: kept, its recipe, data and parent are unchanged")
            continue
        model, log = _train_stage(stage, parent, x, data.labels)
        tail = log[-max(len(log) // 10, 1) :]
        outcome = {
            "final_loss": f"{sum(entry.loss for entry in tail) / len(tail):.5f}",
            "final_ratio": f"{sum(entry.ratio for entry in tail) / len(tail):.4f}",
        }
        checkpoint.write(path, model, identity | made_by | outcome, dtype=torch.float16)
        status(f"{path.name}: loss {outcome['final_loss']}, FLOPs ratio in training {outcome['final_ratio']}")


def provenance() -> dict[str, str]:
    """Command, commit and versions that a trained file records."""
    record = environment.record()
    commit = f"{record['commit']}{' (dirty)' if record['dirty'] else ''}"
    return {"command": record["command"], "commit": commit, "torch": record["torch"]["version"]}


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
    shape = (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)
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
            CONFIG.num_classes,
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


def _train_classifier(path: Path, data: digits.Digits, epochs: int, made_by: dict[str, str]) -> None:
    identity = _identity({"epochs": epochs, "seed": 0}, None)
    if _is_made(path, identity):
        status(f"{path.name}: kept, its recipe and data are unchanged")
        return
    bar: Callable[[range], Iterable[int]] = lambda epochs: track(epochs, "digits classifier")  # noqa: E731
    model = features.train_digits_classifier(data.images, data.labels, seed=0, epochs=epochs, progress=bar)
    features.save_digits_classifier(model, path, identity | made_by)


def _train_stage(stage: Stage, parent: Path | None, x: Tensor, labels: Tensor) -> tuple[DiT, list[StepLog]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.recipe.seed)
        model = (DiT if stage.recipe.target is None else DyDiT)(**CONFIG.kwargs())
    if parent is not None:
        checkpoint.load_into(model, checkpoint.read(parent), str(parent))
        order_by_importance(model)
    log: list[StepLog] = []
    bar = lambda steps: track(steps, f"training {stage.name}", total=stage.recipe.steps)  # noqa: E731
    return train(model, x, labels, stage.recipe, track=bar, on_step=log.append), log


def _identity(recipe: dict[str, Any], parent: Path | None) -> dict[str, str]:
    """What decides the content of a trained file: recipe and seed, data, parent, network."""
    return {
        "recipe": json.dumps(recipe, sort_keys=True),
        "seed": str(recipe["seed"]),
        "data": "scikit-learn digits",
        "data_sha256": digits.checksum(),
        "network": json.dumps(CONFIG.kwargs(), sort_keys=True),
        "parent_sha256": features.file_sha256(parent) if parent else "",
    }


def _is_made(path: Path, identity: dict[str, str]) -> bool:
    if not path.is_file():
        return False
    record = checkpoint.read(path).record
    return all(record.get(key) == value for key, value in identity.items())
