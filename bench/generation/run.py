"""Class-conditional, guided generation: any number of processes, one set of images.

Image k is a function of (model, seed, k): its label and all its noise come from its own generator. Images are made in
units of consecutive indices, a batch each, whatever the number of processes or the count of images, so that on one kind
of device they are equal to the bit; between unit sizes they differ by rounding. Units are written whole, so that a
killed run loses at most those in flight, and the next run makes only what is missing (see `bench.data.shards`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.data import shards
from bench.data.shards import Manifest
from bench.generation.export import assemble, discard_assembled, write_pngs
from bench.generation.job import (
    UNIT,
    GenerationJob,
    GenerationOptions,
    generation_identity,
    prepare_generation,
    sampling_model,
)
from bench.machine import ProcessGroup, arithmetic, status, track
from bench.records import environment_record, exclusive, portable, prepare_output
from bench.records.run_directory import _check_disk
from dydit import InputError, Model, draw
from dydit.sampling import Track


def generate_images(options: GenerationOptions) -> Path | None:
    """Make what is missing of a run and assemble it, together with the other processes that torchrun started.

    Returns:
        The path of `samples.npz` in the first process, None in the others.

    Raises:
        InputError: anything that would spoil the run, found before the first image is made; or images that came out as
            NaN, or a disk that filled up, after which the same call goes on.
    """
    world = ProcessGroup.from_environment()
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.connected())
        stack.enter_context(arithmetic(options.threads, options.tf32))
        world.agree(lambda: _hold(options.out, stack) if world.first else None)
        job = world.agree(lambda: prepare_generation(options, world.local_rank))
        begun = world.share(world.agree(lambda: _begin(options, job, world.size) if world.first else None))
        assert begun is not None
        manifest, missing = begun
        if missing:
            model = world.agree(lambda: sampling_model(options, job, manifest.unit))
            began = time.perf_counter()
            _make(options, job, model, manifest, missing[world.rank :: world.size], world)
            world.wait()
            _tell(world, _speed(manifest, missing, time.perf_counter() - began))
        if options.png:
            for unit in _shown(range(world.rank, manifest.units, world.size), "writing PNG files", world):
                write_pngs(options.out, manifest, unit)
        if not world.first:
            return None
        return assemble(options.out, manifest, lambda units: track(units, "assembling samples.npz"))


def make_unit(
    options: GenerationOptions,
    job: GenerationJob,
    model: Model,
    manifest: Manifest,
    unit: int,
    steps: Track = lambda steps: steps,
) -> tuple[shards.Images, shards.Labels]:
    """Images uint8 (n, H, W, C) and labels int64 (n,) of one unit.

    The batch is always a whole unit, so that the content of an image does not depend on how many there are.
    """
    config = job.network.config

    def solve(x: Tensor, y: Tensor, noise: Any) -> Tensor:
        return job.run.solve(model, x, y, noise=noise, scale=options.scale, null_label=config.num_classes, track=steps)

    indices = range(unit * manifest.unit, (unit + 1) * manifest.unit)
    shape = (config.in_channels, config.input_size, config.input_size)
    x, y = draw(solve, shape, config.num_classes, indices, seed=options.seed, device=job.device)
    kept = len(manifest.indices(unit))
    images = job.decoder(x)[:kept].permute(0, 2, 3, 1).contiguous()
    return images.cpu().numpy(), y[:kept].cpu().numpy()


def _hold(directory: Path, stack: contextlib.ExitStack) -> None:
    """Take the output directory for this run alone, and remove what a killed one left half-written."""
    prepare_output(directory)
    stack.enter_context(exclusive(directory))
    shards.clean(directory)
    if not (directory / shards.MANIFEST).exists() and any((directory / "units").glob("*.npz")):
        raise InputError(f"output {directory}: holds units without {shards.MANIFEST}; choose another directory")


def _begin(options: GenerationOptions, job: GenerationJob, processes: int) -> tuple[Manifest, list[int]]:
    """Write the manifest and list the units that are missing."""
    directory = options.out
    found = shards.read_manifest(directory) if (directory / shards.MANIFEST).exists() else None
    unit = options.unit or (found.unit if found else min(UNIT, options.images))
    manifest = Manifest(options.images, unit, job.decoder.shape, generation_identity(options, job), record={})
    if found is not None:
        _check_same(directory, found, manifest)
    checked = lambda units: track(units, "checking units")  # noqa: E731
    missing = shards.missing_units(directory, manifest, read=True, track=checked)
    _check_disk(directory, shards.bytes_to_write(manifest, missing, png=options.png))
    if found is None or found.count != manifest.count:
        discard_assembled(directory)
        shards.write_manifest(directory, dataclasses.replace(manifest, record=_record(options, processes)))
    there = f"{directory}: {manifest.units - len(missing)} of {manifest.units} units are there"
    status(f"{there}, {len(missing)} to make; processes: {processes}" if missing else f"{there}, none to make")
    return manifest, missing


def _record(options: GenerationOptions, processes: int) -> dict[str, Any]:
    vae = options.vae and portable(options.vae)
    return environment_record(checkpoint=portable(options.checkpoint), vae=vae, processes=processes)


def _check_same(directory: Path, found: Manifest, wanted: Manifest) -> None:
    """Refuse to mix two runs in one directory; more images of the same run are welcome."""
    different = found.difference(wanted)
    if different is None and found.count > wanted.count:
        different = "images", found.count, wanted.count
    if different is not None:
        name, old, new = different
        raise InputError(
            f"output {directory}: holds a run with {name} = {old}, this one has {new}; choose another directory"
        )


def _make(
    options: GenerationOptions,
    job: GenerationJob,
    model: Model,
    manifest: Manifest,
    units: list[int],
    world: ProcessGroup,
) -> None:
    """Make and write this process's units, one after another."""
    steps = len(job.run.timesteps)
    done = iter(_shown(range(steps * len(units)), f"steps of {len(units)} units of {manifest.unit} images", world))

    def advance(inner: Iterable[int]) -> Iterable[int]:
        for step in inner:
            next(done, None)
            yield step

    for unit in units:
        images, labels = make_unit(options, job, model, manifest, unit, advance)
        shards.write_unit(options.out, manifest, unit, images, labels)
    next(done, None)  # closes the bar


def _shown(work: range, label: str, world: ProcessGroup) -> Iterable[int]:
    """With progress in the first process; the shares of the others are as large, or one unit smaller."""
    return track(work, label) if world.first else work


def _speed(manifest: Manifest, units: list[int], seconds: float) -> str:
    images = sum(len(manifest.indices(unit)) for unit in units)
    return f"made {images} images in {seconds:.1f} s, {images / seconds:.3g} images/s"


def _tell(world: ProcessGroup, message: str) -> None:
    if world.first:
        status(message)
