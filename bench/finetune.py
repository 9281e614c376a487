"""Fine-tuning by a recipe, in one process or many under torchrun: resumes to the bit, ends with exported files.

    log.csv                    a row a step: loss, FLOPs ratio and its target, gradient norm, whether it was skipped
    rates.csv                  every so often: open shares of heads, channel groups and tokens of each block
    tensorboard/               both of them once more, where asked for
    checkpoints/00001000.pt    all that a training needs to go on, and what it is a training of
    model.safetensors          the moving average, with its record
    model.pt                   `ema` and `model` in the published layout
    README.md                  the model card

Every file appears whole or not at all, but for the logs, which are cut back to the step that a run resumes from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from bench import environment, results, shards, training_files, training_log
from bench.arithmetic import arithmetic
from bench.progress import status, track
from bench.training_job import Job, Options, own_device, prepare
from bench.training_log import Logs
from bench.world import World
from dydit import checkpoint, model_card
from dydit.errors import InputError
from dydit.files import atomic_path
from dydit.training import StepLog


def run(options: Options) -> Path | None:
    """Train to the end of the recipe, together with the other processes that torchrun started, and export.

    Returns:
        The path of `model.safetensors` in the first process, None in the others.

    Raises:
        InputError: anything that would spoil the run, found before the first step; a training that diverged, or a disk
            that filled up, after which the last checkpoint is whole and the same call goes on from it.
    """
    world = World.from_environment()
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.connected("cpu:gloo,cuda:nccl" if options.device == "cuda" else "gloo"))
        stack.enter_context(arithmetic(options.threads, options.tf32))
        world.agree(lambda: _hold(options.out, stack) if world.first else None)
        # Before the first file written makes the tree look changed.
        made_by = provenance(options.device) if world.first else {}
        device = world.agree(lambda: own_device(options, world))
        mesh = init_device_mesh(device.type, (world.size,)) if options.shard else None
        job = world.agree(lambda: prepare(options, world, device, mesh))
        newest = world.share(world.agree(lambda: training_files.newest(options.out) if world.first else None))
        if newest is not None:
            state = world.agree(lambda: resumable(job, newest))
            world.agree(lambda: job.training.restore(state))
        _tell(world, _beginning(job, newest, world.size))
        opened = Logs.opened(options.out, job.training.step, options.tensorboard)
        _train(options, job, world, stack.enter_context(opened) if world.first else None)
        weights = job.training.weights()
        return world.agree(lambda: export(options.out, job, weights, made_by) if world.first else None)


# Checkpoints of a run


def save(options: Options, job: Job, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint of the training's `state`, and remove all but the last `keep`.

    Raises:
        InputError: it cannot be written; those before it stay.
    """
    path = options.out / "checkpoints" / f"{state['step']:08d}.pt"
    content = {"schema_version": training_files.SCHEMA_VERSION, "identity": job.identity, "training": state}
    training_files.write(path, content)
    for old in sorted(path.parent.glob("[0-9]*.pt"))[: -options.keep]:
        old.unlink()
    return path


def resumable(job: Job, path: Path) -> dict[str, Any]:
    """The state in which a checkpoint of the same run left its training.

    Raises:
        InputError: it is of another run; the first field that differs is named.
    """
    content = training_files.read(path)
    mine, theirs = _flat(job.identity), _flat(content["identity"])
    for name in (*mine, *theirs):
        if mine.get(name) != theirs.get(name):
            raise InputError(
                f"output {path.parents[1]}: holds a run with {name} = {theirs.get(name)}, this one has "
                f"{mine.get(name)}; choose another directory"
            )
    state: dict[str, Any] = content["training"]
    return state


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return flat


# The run


def _hold(out: Path, stack: contextlib.ExitStack) -> None:
    """Take the output directory for this run alone, and remove what a killed one left half-written."""
    results.prepare_output(out)
    stack.enter_context(shards.exclusive(out))
    for partial in (*out.glob(".*.partial.*"), *out.glob("checkpoints/.*.partial.pt")):
        partial.unlink(missing_ok=True)


def _train(options: Options, job: Job, world: World, logs: Logs | None) -> None:
    training, steps = job.training, job.plan.recipe.steps
    work: Iterable[int] = range(training.step, steps)
    for step in track(work, "fine-tuning", total=steps - training.step) if world.first else work:
        try:
            log = training.advance(job.data.data)
        except InputError as error:  # all processes see the same sums, and stop at the same step
            if not world.first:
                sys.exit(2)
            newest = training_files.newest(options.out)
            raise InputError(f"{error}; the last checkpoint is {newest or 'none'}") from None
        world.agree(lambda: logs.add(log) if logs else None)  # noqa: B023 (called at once)
        if (step + 1) % options.save_every == 0 or step + 1 == steps:
            state = training.state()
            world.agree(lambda: _saved(options, job, state, log) if world.first else None)  # noqa: B023 (called at once)


def _saved(options: Options, job: Job, state: Mapping[str, Any], log: StepLog) -> None:
    path = save(options, job, state)
    told = f"loss {log.loss:.4f}, FLOPs ratio {log.ratio:.3f} (target {log.target:.3f})"
    status(f"step {job.training.step} of {job.plan.recipe.steps}: {told}; {path}")


def _beginning(job: Job, newest: Path | None, processes: int) -> str:
    recipe, kind = job.plan.recipe, job.training.kind.__name__
    where = f"going on from {newest}" if newest else "from the static checkpoint"
    target = "static" if recipe.target is None else f"lambda {recipe.target}"
    return f"{kind}, {target}: step {job.training.step} of {recipe.steps}, {where}; processes: {processes}"


def provenance(device: str) -> dict[str, str]:
    """Command, commit and versions that exported files record, and the GPU where one trained them."""
    record = environment.record()
    commit = f"{record['commit']}{' (dirty)' if record['dirty'] else ''}"
    made_by = {"command": record["command"], "commit": commit, "torch": record["torch"]["version"]}
    return made_by | ({"device": torch.cuda.get_device_name()} if device == "cuda" else {})


def export(out: Path, job: Job, weights: Mapping[str, Mapping[str, Tensor]], made_by: Mapping[str, str]) -> Path:
    """Write the `weights` of a training as `model.safetensors`, `model.pt` and `README.md`; the log must be complete.

    Raises:
        InputError: a file cannot be written.
    """
    training, recipe = job.training, job.plan.recipe
    outcome = training_log.outcome(out, recipe)
    record = {
        "recipe": json.dumps(dataclasses.asdict(recipe), sort_keys=True),
        "recipe_source": job.plan.source,
        "ordered": str(job.plan.ordered),
        "precision": job.identity["precision"],
        "seed": str(recipe.seed),
        "data": job.data.name,
        "data_sha256": job.data.sha256,
        "parent_sha256": job.identity["parent_sha256"],
        **made_by,
        **outcome,
    }
    path = out / "model.safetensors"
    states = {name: {key: value.cpu() for key, value in state.items()} for name, state in weights.items()}
    training_files.write(out / "model.pt", states)
    averaged = training.kind(**training.model.config.kwargs())
    averaged.load_state_dict(states["ema"])
    with training_files.writing(path):
        checkpoint.write(path, averaged, record)
    card = out / "README.md"
    with training_files.writing(card), atomic_path(card) as partial:
        partial.write_text(model_card.text(averaged, record), encoding="utf-8")
    return path


def _tell(world: World, message: str) -> None:
    if world.first:
        status(message)
