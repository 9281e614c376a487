"""Small-scale studies: training what `bench.studies.catalogue` describes.

Every trained file records the command, commit, seed, data checksum and parent that made it, and a file whose record
still fits is not made again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.machine import Task, arithmetic, check_device, run_tasks, status, track
from bench.quality.features import classifiers
from bench.quality.features.classifiers import ClassifierKind
from bench.records import check_listed, file_sha256, provenance, whole_file
from bench.studies.catalogue import STATIC, Stage, Study, TrainingSet
from bench.training.checkpoints import SCHEMA_VERSION, read_whole, write_tensors
from dydit import Diffusion, DiT, DyDiT, InputError, Routing, checkpoint, order_by_importance
from dydit.ablations import RandomRouting, find_ablation
from dydit.baselines import Calibration, change_network, is_change
from dydit.training import Draws, InMemory, Recipe, Training

TRAINING_THREADS = 1
"""Training fixes the thread count: floating-point sums depend on it. Networks this small gain nothing from a second."""


BACKGROUND = -0.9
"""Pixels up to this value, a twentieth of the way from black to white, belong to the background."""
CALIBRATION = 64
"""Images, the first of the training set, on which a pruning by gradients takes them."""
CURVE_POINTS = 40
"""Of the course of a training that its file keeps: means over as many equal stretches of steps."""
SAVE_EVERY = 500
"""Steps between two saved states of a stage, from which a broken-off training goes on to the same bits."""


def train_all(
    study: Study,
    directory: Path,
    *,
    processes: int = 1,
    device: str = "cpu",
    data_root: Path | None = None,
) -> int:
    """Train every stage of a study into `directory` (safetensors), and put the study's classifier there.

    Files of an earlier, broken-off run with the same recipe, data and parent are kept; a stage that was broken off
    begins again. The number of processes changes nothing in the files.

    Args:
        study: what to train.
        directory: for the files `STAGE.safetensors`.
        processes: how many stages are trained at once, each with one thread.
        device: cpu or cuda. On a GPU, matrix products take TF32 inputs, as the papers' training does.
        data_root: directory of the data set's files, where the study does not find them by itself.

    Returns:
        How many stages were trained, and not kept.

    Raises:
        InputError: no such device or data, data that do not fit the network, a shipped classifier that was changed, or
            a training that diverged.
    """
    check_device(device, torch.float32)
    made_by = provenance(device)  # once, before the first file written makes the tree look changed
    data = study.load(data_root)
    for stage in study.stages:
        _check_fits(study, stage, data)
    if study.classifier is not None:
        with arithmetic(TRAINING_THREADS, tf32=False):
            place_classifier(study.classifier, directory / study.classifier.weights.name, data, made_by)
    load = functools.partial(study.load, data_root)
    tasks = [
        Task(stage.name, functools.partial(_make, stage, study.dtype, load, directory, device, made_by), stage.needs)
        for stage in study.stages
    ]
    return run_tasks(tasks, processes, f"training {study.name}")


def _make(
    stage: Stage,
    dtype: torch.dtype,
    load: Callable[[], TrainingSet],
    directory: Path,
    device: str,
    made_by: dict[str, str],
) -> str:
    """Train one stage, unless its file is made already."""
    data = _loaded(load)
    path, identity = directory / f"{stage.name}.safetensors", _identity(stage, data, directory)
    partial = directory / f".{stage.name}.partial.pt"
    if _is_made(path, identity):
        partial.unlink(missing_ok=True)
        return ""
    with arithmetic(TRAINING_THREADS, tf32=torch.device(device).type == "cuda"):
        x, labels = data.x.to(device), data.labels.to(device)
        model, log = _train_stage(stage, directory, x, labels, identity)
    tail = log[-max(len(log) // 10, 1) :]
    outcome = {
        "final_loss": f"{sum(entry.loss for entry in tail) / len(tail):.5f}",
        "final_ratio": f"{sum(entry.ratio for entry in tail) / len(tail):.4f}",
        "skipped_steps": str(sum(entry.skipped for entry in log)),
        "curve": json.dumps(_curve(log)),
    }
    checkpoint.write(path, model, identity | made_by | outcome, dtype=dtype)
    partial.unlink(missing_ok=True)
    return f"{path.name}: loss {outcome['final_loss']}, FLOPs ratio in training {outcome['final_ratio']}"


def _curve(log: list[StepOutcome]) -> list[tuple[int, float, float]]:
    """Last step, mean loss and mean FLOPs ratio of `CURVE_POINTS` stretches of a training, or of every step of it."""
    ends = [len(log) * (point + 1) // CURVE_POINTS for point in range(CURVE_POINTS)]
    stretches = [(end, log[start:end]) for start, end in zip([0, *ends], ends, strict=False) if end > start]
    means = [[sum(entry[column] for entry in part) / len(part) for column in (0, 1)] for _, part in stretches]
    return [(end, round(loss, 5), round(ratio, 5)) for (end, _), (loss, ratio) in zip(stretches, means, strict=True)]


def curves_table(study: Study, directory: Path) -> pd.DataFrame:
    """The course of trainings whose files in `directory` keep it: stage, size, run, lambda, seed, step, loss, ratio.

    Loss and ratio are means over the steps since the row before; the ratio is that of training's noisy gates.
    """
    rows = []
    for stage in study.stages:
        record = checkpoint.read(directory / f"{stage.name}.safetensors").record
        facts: dict[str, Any] = {"stage": stage.name, "size": stage.size, "run": stage.run}
        facts |= {"lambda": stage.recipe.target, "seed": stage.recipe.seed}
        rows += [
            facts | dict(zip(("step", "loss", "ratio"), point, strict=True))
            for point in json.loads(record.get("curve", "[]"))
        ]
    return pd.DataFrame(rows)


@functools.lru_cache(maxsize=1)
def _loaded(load: Callable[[], TrainingSet]) -> TrainingSet:
    return load()


def _check_fits(study: Study, stage: Stage, data: TrainingSet) -> None:
    network = stage.network
    wanted = (network.in_channels, network.input_size, network.input_size)
    shape, classes = tuple(data.images.shape[1:]), int(data.labels.max()) + 1
    if shape != wanted or classes > network.num_classes:
        raise InputError(
            f"{data.name}: images {shape} of {classes} classes; the study {study.name} trains on images {wanted} of "
            f"{network.num_classes}; give its own data set"
        )


def place_classifier(kind: ClassifierKind, path: Path, data: TrainingSet, made_by: dict[str, str]) -> None:
    """The classifier that scores the study: the shipped one where its record fits, else one trained here.

    Another CPU trains other weights, and a metric of one name must come from one extractor on every machine.
    """
    identity = _record_of(data, {"epochs": kind.epochs, "seed": 0}) | {"parent_sha256": ""}
    shipped = check_listed(kind.weights) if kind.weights.is_file() else None
    if shipped is not None and _is_made(kind.weights, identity):
        if not path.is_file() or file_sha256(path) != shipped:
            with whole_file(path) as partial:
                shutil.copyfile(kind.weights, partial)
        return
    if _is_made(path, identity):
        return
    bar: Callable[[range], Iterable[int]] = lambda steps: track(steps, f"training {kind.name}")  # noqa: E731
    model = classifiers.train_classifier(kind, data.images, data.labels, seed=0, epochs=kind.epochs, progress=bar)
    classifiers.save_classifier(model, path, identity | made_by)


class StepOutcome(NamedTuple):
    """Loss and FLOPs ratio of one step, and whether it was skipped for its gradient norm."""

    loss: float
    ratio: float
    skipped: bool


def _train_stage(
    stage: Stage, directory: Path, x: Tensor, labels: Tensor, identity: dict[str, str]
) -> tuple[DiT, list[StepOutcome]]:
    model = untrained(stage)
    if stage.parent is not None and is_change(stage.run):
        parent = checkpoint.load_model(directory / f"{stage.parent}.safetensors")[0]
        model = change_network(parent, stage.run, Calibration(x[:CALIBRATION].cpu(), labels[:CALIBRATION].cpu()))
        model.train()
    elif stage.parent is not None:
        path = directory / f"{stage.parent}.safetensors"
        checkpoint.load_into(model, checkpoint.read(path), str(path))
    if stage.ordered:
        order_by_importance(model)
    if isinstance(model, RandomRouting):
        assert stage.rates_of is not None, f"{stage.name}: random routing needs the rates of another stage"
        learned = checkpoint.load_model(directory / f"{stage.rates_of}.safetensors")[0]
        routing = evaluated(learned, x.cpu(), labels.cpu()).routing
        assert routing is not None, f"{stage.rates_of}: a static model has no rates"
        model.set_rates(routing.rates, stage.recipe.seed)
    return _trained(stage, model.to(x.device), InMemory(x, labels), directory / f".{stage.name}.partial.pt", identity)


def _trained(
    stage: Stage, model: DiT, data: InMemory, partial: Path, identity: dict[str, str]
) -> tuple[DiT, list[StepOutcome]]:
    """The moving average after all steps, and what every step came to; goes on from `partial` of the same training."""
    training, outcomes = Training(model, stage.recipe), list[StepOutcome]()
    found = _partly_trained(partial, identity)
    if found is not None:
        training.restore(found["training"])
        outcomes = [StepOutcome(*values) for values in found["outcomes"]]
    steps = range(training.step, stage.recipe.steps)
    for step in track(steps, f"training {stage.name}", total=len(steps)):
        log = training.advance(data)
        outcomes.append(StepOutcome(log.loss, log.ratio, log.skipped))
        if (step + 1) % SAVE_EVERY == 0 and step + 1 < stage.recipe.steps:
            content = {
                "schema_version": SCHEMA_VERSION,
                "identity": identity,
                "training": training.state(),
                "outcomes": [tuple(outcome) for outcome in outcomes],
            }
            write_tensors(content, partial)
    return training.averaged.cpu(), outcomes


def _partly_trained(partial: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """What a broken-off training of the same stage left; None where there is nothing, or something else."""
    if not partial.is_file():
        return None
    try:
        content = read_whole(partial)
    except InputError:
        return None
    return content if content["identity"] == identity else None


def untrained(stage: Stage) -> DiT:
    """The network of a stage with the random weights of its seed.

    Raises:
        InputError: the recipe aims at a FLOPs ratio that the network cannot reach.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.recipe.seed)
        if stage.kind == STATIC:
            return DiT(**stage.network.kwargs())
        ablation = find_ablation(stage.kind)
        if stage.recipe.target is not None:
            ablation.check_target(stage.network, stage.recipe.target)
        return ablation.build(stage.network)


class Evaluated(NamedTuple):
    """What a model makes of N draws of training.

    `loss` is that of training without its FLOPs term; `routing` is None in a static model. `timesteps` (N,) and
    `objects` (N, T) say of each draw its timestep, and which tokens hold more than the black background in the clean
    image.
    """

    loss: float
    routing: Routing | None
    timesteps: Tensor
    objects: Tensor


@torch.no_grad()
def evaluated(model: DiT, x: Tensor, labels: Tensor, draws: int = 4096) -> Evaluated:
    """A model in evaluation mode on what training draws: images (M, C, S, S) at stratified timesteps, always the same.

    The FLOPs ratio of the routing is what the FLOPs loss holds to its target, but for the noise of the gates.
    """
    config, diffusion = model.config, Diffusion.linear()
    shape = (config.in_channels, config.input_size, config.input_size)
    recipe = Recipe(steps=1, batch_size=draws, seed=0)
    rows, _, t, noise = Draws.of_step(recipe, 0, rows=len(x), shape=shape, timesteps=len(diffusion))
    x_t, y = diffusion.add_noise(x[rows], t, noise), labels[rows]
    output, routing = model.route(x_t, t, y) if isinstance(model, DyDiT) else (model(x_t, t, y), None)
    loss = diffusion.losses(output, x[rows], x_t, t, noise).loss.mean().item()
    return Evaluated(loss, routing, t, object_tokens(x[rows], config.patch_size))


def classifier_accuracy(study: Study, directory: Path, images: Tensor, labels: Tensor) -> float:
    """Share of images uint8 (N, 1, S, S) to which the study's classifier in `directory` gives their label (N,)."""
    assert study.classifier is not None, f"{study.name}: a study without a classifier"
    model = classifiers.load_classifier(study.classifier, directory / study.classifier.weights.name)
    return classifiers.accuracy(model, images, labels)


def object_tokens(x: Tensor, patch: int) -> Tensor:
    """Tokens (N, T) of images (N, C, S, S) in [-1, 1] with a pixel above `BACKGROUND`."""
    brightest = F.max_pool2d(x.amax(dim=1, keepdim=True), patch)
    return brightest.flatten(1) > BACKGROUND


def _record_of(data: TrainingSet, recipe: dict[str, Any]) -> dict[str, str]:
    return {
        "recipe": json.dumps(recipe, sort_keys=True),
        "seed": str(recipe["seed"]),
        "data": data.name,
        "data_sha256": data.sha256,
    }


def _identity(stage: Stage, data: TrainingSet, directory: Path) -> dict[str, str]:
    """What decides the content of a trained file: recipe and seed, data, parent, network, and what is changed in it."""
    files = {"parent_sha256": stage.parent, "rates_of_sha256": stage.rates_of}
    return _record_of(data, dataclasses.asdict(stage.recipe)) | {
        "network": json.dumps(stage.network.kwargs(), sort_keys=True),
        "run": stage.run,
        **{key: file_sha256(directory / f"{name}.safetensors") if name else "" for key, name in files.items()},
    }


def _is_made(path: Path, identity: dict[str, str]) -> bool:
    """Whether a file is the one of this identity, and whole; one that has changed is made again, which a line says."""
    if not path.is_file():
        return False
    try:
        record = checkpoint.read(path).record
    except InputError as error:
        status(f"made again: {error}")
        return False
    recipes = (Recipe.completed(json.loads(each)) for each in (record.get("recipe", "{}"), identity["recipe"]))
    if next(recipes) != next(recipes):
        return False
    return all(record.get(key) == value for key, value in identity.items() if key != "recipe")
