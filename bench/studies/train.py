"""Small-scale studies: training what `bench.studies.catalogue` describes.

Every trained file records the command, commit, seed, data checksum and parent that made it, and a file whose record
still fits is not made again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.data import preprocessing
from bench.machine import Task, arithmetic, check_device, run_tasks, status, track
from bench.quality.features import digits_cnn
from bench.records import environment_record, file_sha256
from bench.studies.catalogue import STATIC, Stage, Study, TrainingSet
from dydit import Diffusion, DiT, DyDiT, InputError, Routing, checkpoint, order_by_importance
from dydit.ablations import RandomRouting, find_ablation
from dydit.training import Draws, Recipe, StepLog, train

CLASSIFIER = digits_cnn.DIGITS_WEIGHTS.name
THREADS = 1
"""Training fixes the thread count: floating-point sums depend on it. Networks this small gain nothing from a second."""


def train_all(
    study: Study,
    directory: Path,
    *,
    processes: int = 1,
    device: str = "cpu",
    data_root: Path | None = None,
) -> int:
    """Train every stage of a study into `directory` (safetensors), and the digits' classifier with theirs.

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
        InputError: no such device or data, data that do not fit the network, or a training that diverged.
    """
    check_device(device, torch.float32)
    made_by = provenance(device)  # once, before the first file written makes the tree look changed
    data = study.load(data_root)
    for stage in study.stages:
        _check_fits(study, stage, data)
    if study.classifier_epochs:
        with arithmetic(THREADS, tf32=False):
            _train_classifier(directory / CLASSIFIER, data, study.classifier_epochs, made_by)
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
    if _is_made(path, identity):
        return ""
    with arithmetic(THREADS, tf32=torch.device(device).type == "cuda"):
        x, labels = preprocessing.to_model(data.images).to(device), data.labels.to(device)
        model, log = _train_stage(stage, directory, x, labels)
    tail = log[-max(len(log) // 10, 1) :]
    outcome = {
        "final_loss": f"{sum(entry.loss for entry in tail) / len(tail):.5f}",
        "final_ratio": f"{sum(entry.ratio for entry in tail) / len(tail):.4f}",
        "skipped_steps": str(sum(entry.skipped for entry in log)),
    }
    checkpoint.write(path, model, identity | made_by | outcome, dtype=dtype)
    return f"{path.name}: loss {outcome['final_loss']}, FLOPs ratio in training {outcome['final_ratio']}"


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


def provenance(device: str = "cpu") -> dict[str, str]:
    """Command, commit and versions that a trained file records, and the GPU where one trained it."""
    record = environment_record()
    commit = f"{record['commit']}{' (dirty)' if record['dirty'] else ''}"
    made_by = {"command": record["command"], "commit": commit, "torch": record["torch"]["version"]}
    gpu = torch.device(device).type == "cuda"
    return made_by | ({"device": torch.cuda.get_device_name(device)} if gpu else {})


def _train_classifier(path: Path, data: TrainingSet, epochs: int, made_by: dict[str, str]) -> None:
    identity = _record_of(data, {"epochs": epochs, "seed": 0}) | {"parent_sha256": ""}
    if _is_made(path, identity):
        return
    status(f"{path.name}: training for {epochs} epochs")
    bar: Callable[[range], Iterable[int]] = lambda epochs: track(epochs, "digits classifier")  # noqa: E731
    model = digits_cnn.train_digits_classifier(data.images, data.labels, seed=0, epochs=epochs, progress=bar)
    digits_cnn.save_digits_classifier(model, path, identity | made_by)


def _train_stage(stage: Stage, directory: Path, x: Tensor, labels: Tensor) -> tuple[DiT, list[StepLog]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.recipe.seed)
        model = _built(stage)
    if stage.parent is not None:
        path = directory / f"{stage.parent}.safetensors"
        checkpoint.load_into(model, checkpoint.read(path), str(path))
    if stage.ordered:
        order_by_importance(model)
    if isinstance(model, RandomRouting):
        assert stage.rates_of is not None, f"{stage.name}: random routing needs the rates of another stage"
        learned = checkpoint.load_model(directory / f"{stage.rates_of}.safetensors")[0]
        routing = evaluated(learned, x.cpu(), labels.cpu()).routing
        assert routing is not None, f"{stage.rates_of}: a static model has no rates"
        model.meet(routing.rates, stage.recipe.seed)
    log: list[StepLog] = []
    bar = lambda steps: track(steps, f"training {stage.name}", total=stage.recipe.steps)  # noqa: E731
    return train(model.to(x.device), x, labels, stage.recipe, track=bar, on_step=log.append).cpu(), log


def _built(stage: Stage) -> DiT:
    if stage.kind == STATIC:
        return DiT(**stage.network.kwargs())
    ablation = find_ablation(stage.kind)
    if stage.recipe.target is not None:
        ablation.check_target(stage.network, stage.recipe.target)
    return ablation.build(stage.network)


class Evaluated(NamedTuple):
    """Loss of the images (that of training, without its FLOPs term), and the routing (None in a static model)."""

    loss: float
    routing: Routing | None


@torch.no_grad()
def evaluated(model: DiT, x: Tensor, labels: Tensor, draws: int = 4096) -> Evaluated:
    """A model in evaluation mode on what training draws: images (M, C, S, S) at stratified timesteps, always the same.

    The FLOPs ratio of the routing is what the FLOPs loss holds to its target, but for the noise of the gates.
    """
    config, diffusion = model.config, Diffusion.linear()
    shape = (config.in_channels, config.input_size, config.input_size)
    rows, _, t, noise = Draws.of(Recipe(steps=1, batch_size=draws, seed=0), 0, len(x), shape, len(diffusion))
    x_t, y = diffusion.add_noise(x[rows], t, noise), labels[rows]
    output, routing = model.route(x_t, t, y) if isinstance(model, DyDiT) else (model(x_t, t, y), None)
    return Evaluated(diffusion.losses(output, x[rows], x_t, t, noise).loss.mean().item(), routing)


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
    if not path.is_file():
        return False
    record = checkpoint.read(path).record
    return all(record.get(key) == value for key, value in identity.items())
