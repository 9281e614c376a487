"""Fine-tuning by a recipe, in one process or many under torchrun: resumes to the bit, ends with exported files.

    log.csv                    one row per step: loss, FLOPs ratio and its target, gradient norm, whether it was skipped
    rates.csv                  every 100 steps: open shares of heads, channel groups and tokens of each block
    tensorboard/               both of them once more, where asked for
    checkpoints/00001000.pt    all that a training needs to go on, and what it is a training of
    model.safetensors          the moving average, with its record
    model.pt                   `ema` and `model` in the published layout
    README.md                  the model card

Every file appears whole or not at all, but for the logs, which begin anew from the checkpoint that a run resumes from.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.distributed.device_mesh import init_device_mesh

from bench.data.image_set import describe_classes
from bench.machine import ProcessGroup, arithmetic, own_device, status, track
from bench.records import ALL_FILES, job_facts, provenance, take_directory
from bench.training.checkpoints import newest_checkpoint, read_checkpoint, remove_others, save_checkpoint
from bench.training.export import export_model
from bench.training.job import FinetuneOptions, TrainingJob, prepare_training
from bench.training.log import Logs
from dydit import InputError
from dydit.training import StepLog

FILES = (*ALL_FILES, "checkpoints/*.*")
"""All files of a run but TensorBoard's, as patterns."""


def finetune(options: FinetuneOptions) -> Path | None:
    """Train to the end of the recipe, together with the other processes that torchrun started, and export.

    Returns:
        The path of `model.safetensors` in the first process, None in the others.

    Raises:
        InputError: anything that would spoil the run, found before the first step; a training that diverged, or a disk
            that filled up, after which the last checkpoint is whole and the same call goes on from it.
    """
    world = ProcessGroup.from_environment()
    if options.shard and world.size == 1:
        raise InputError("shard: one process has nobody to share with; start several with torchrun --nproc-per-node N")
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.connected("cpu:gloo,cuda:nccl" if options.device == "cuda" else "gloo"))
        stack.enter_context(arithmetic(options.threads, options.tf32))
        world.agree(lambda: stack.enter_context(take_directory(options.out, FILES)) if world.first else None)
        made_by = provenance(options.device) if world.first else {}
        device = world.agree(lambda: own_device(options.device, world.local_rank))
        mesh = init_device_mesh(device.type, (world.size,)) if options.shard else None
        job = world.agree(lambda: prepare_training(options, world, device, mesh))
        newest = world.share(world.agree(lambda: newest_checkpoint(options.out) if world.first else None))
        there = world.agree(lambda: read_checkpoint(newest, job.identity)) if newest is not None else {}
        begins = {"job": job.identity, "checkpoint": there.get("archive_sha256")}
        world.check_equal(lambda: job_facts(options) | begins)
        if newest is not None:
            world.agree(lambda: job.training.restore(there["training"]))
            if world.first:
                remove_others(newest, options.keep)  # a kill may have come before older ones were removed
        if world.first:
            status(f"data {job.data.name}: {describe_classes(job.data.classes)}")
            for line in job.remarks:
                status(line)
            status(_beginning(job, newest, world.size))
            if job.plan.warning is not None:
                status(job.plan.warning)
        opened = Logs.opened(options.out, job.training.step, there.get("logs", {}), options.tensorboard)
        logs = stack.enter_context(opened) if world.first else None
        _train(job, world, logs)
        weights = job.training.weights()
        return world.agree(lambda: export_model(job, weights, made_by, logs.texts["log.csv"]) if logs else None)


def _train(job: TrainingJob, world: ProcessGroup, logs: Logs | None) -> None:
    """Train to the last step; the first process writes `logs` and checkpoints."""
    options, training, steps = job.options, job.training, job.plan.recipe.steps
    work: Iterable[int] = range(training.step, steps)
    for step in track(work, "fine-tuning", total=steps - training.step) if world.first else work:
        try:
            log = training.advance(job.data.data)
        except InputError as error:  # all processes see the same sums, and stop at the same step
            if not world.first:
                sys.exit(2)
            newest = newest_checkpoint(options.out)
            raise InputError(f"{error}; the last checkpoint is {newest or 'none'}") from None
        world.agree(lambda: logs.add(log) if logs else None)  # noqa: B023 (called at once)
        if (step + 1) % options.save_every == 0 or step + 1 == steps:
            state = training.state()
            world.agree(lambda: _save(job, state, log, logs.texts) if logs else None)  # noqa: B023 (called at once)


def _save(job: TrainingJob, state: Mapping[str, Any], log: StepLog, texts: Mapping[str, str]) -> None:
    path = save_checkpoint(job.options.out, state, job.identity, job.data.classes, job.options.keep, texts)
    progress = f"loss {log.loss:.4f}, FLOPs ratio {log.ratio:.3f} (target {log.target:.3f})"
    status(f"step {job.training.step} of {job.plan.recipe.steps}: {progress}; {path}")


def _beginning(job: TrainingJob, newest: Path | None, processes: int) -> str:
    recipe, kind = job.plan.recipe, job.training.kind.__name__
    where = f"going on from {newest}" if newest else f"from {job.options.source}"
    target = "static" if recipe.target is None else f"lambda {recipe.target}"
    return f"{kind}, {target}: step {job.training.step} of {recipe.steps}, {where}; processes: {processes}"
