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
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.distributed.device_mesh import init_device_mesh

from bench.machine import ProcessGroup, arithmetic, status, track
from bench.records import exclusive, prepare_output
from bench.training import checkpoints
from bench.training.checkpoints import resumable, save_checkpoint
from bench.training.export import export_model, provenance
from bench.training.job import FinetuneOptions, TrainingJob, own_device, prepare_training
from bench.training.log import Logs
from dydit import InputError
from dydit.training import StepLog


def finetune(options: FinetuneOptions) -> Path | None:
    """Train to the end of the recipe, together with the other processes that torchrun started, and export.

    Returns:
        The path of `model.safetensors` in the first process, None in the others.

    Raises:
        InputError: anything that would spoil the run, found before the first step; a training that diverged, or a disk
            that filled up, after which the last checkpoint is whole and the same call goes on from it.
    """
    world = ProcessGroup.from_environment()
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.connected("cpu:gloo,cuda:nccl" if options.device == "cuda" else "gloo"))
        stack.enter_context(arithmetic(options.threads, options.tf32))
        world.agree(lambda: _hold(options.out, stack) if world.first else None)
        # Before the first file written makes the tree look changed.
        made_by = provenance(options.device) if world.first else {}
        device = world.agree(lambda: own_device(options, world))
        mesh = init_device_mesh(device.type, (world.size,)) if options.shard else None
        job = world.agree(lambda: prepare_training(options, world, device, mesh))
        newest = world.share(world.agree(lambda: checkpoints.newest_checkpoint(options.out) if world.first else None))
        if newest is not None:
            state = world.agree(lambda: resumable(job, newest))
            world.agree(lambda: job.training.restore(state))
        _tell(world, _beginning(job, newest, world.size))
        if job.plan.warning is not None:
            _tell(world, job.plan.warning)
        opened = Logs.opened(options.out, job.training.step, options.tensorboard)
        _train(options, job, world, stack.enter_context(opened) if world.first else None)
        weights = job.training.weights()
        return world.agree(lambda: export_model(options.out, job, weights, made_by) if world.first else None)


# The run


def _hold(out: Path, stack: contextlib.ExitStack) -> None:
    """Take the output directory for this run alone, and remove what a killed one left half-written."""
    prepare_output(out)
    stack.enter_context(exclusive(out))
    for partial in (*out.glob(".*.partial.*"), *out.glob("checkpoints/.*.partial.pt")):
        partial.unlink(missing_ok=True)


def _train(options: FinetuneOptions, job: TrainingJob, world: ProcessGroup, logs: Logs | None) -> None:
    training, steps = job.training, job.plan.recipe.steps
    work: Iterable[int] = range(training.step, steps)
    for step in track(work, "fine-tuning", total=steps - training.step) if world.first else work:
        try:
            log = training.advance(job.data.data)
        except InputError as error:  # all processes see the same sums, and stop at the same step
            if not world.first:
                sys.exit(2)
            newest = checkpoints.newest_checkpoint(options.out)
            raise InputError(f"{error}; the last checkpoint is {newest or 'none'}") from None
        world.agree(lambda: logs.add(log) if logs else None)  # noqa: B023 (called at once)
        if (step + 1) % options.save_every == 0 or step + 1 == steps:
            state = training.state()
            world.agree(lambda: _saved(options, job, state, log) if world.first else None)  # noqa: B023 (called at once)


def _saved(options: FinetuneOptions, job: TrainingJob, state: Mapping[str, Any], log: StepLog) -> None:
    path = save_checkpoint(options, job, state)
    told = f"loss {log.loss:.4f}, FLOPs ratio {log.ratio:.3f} (target {log.target:.3f})"
    status(f"step {job.training.step} of {job.plan.recipe.steps}: {told}; {path}")


def _beginning(job: TrainingJob, newest: Path | None, processes: int) -> str:
    recipe, kind = job.plan.recipe, job.training.kind.__name__
    where = f"going on from {newest}" if newest else "from the static checkpoint"
    target = "static" if recipe.target is None else f"lambda {recipe.target}"
    return f"{kind}, {target}: step {job.training.step} of {recipe.steps}, {where}; processes: {processes}"


def _tell(world: ProcessGroup, message: str) -> None:
    if world.first:
        status(message)
