"""Class-conditional, guided generation: any number of processes, one set of images.

Image k is a function of (model, seed, k): its label and all its noise come from its own generator. Images are made in
units of consecutive indices, each as one batch, whatever the number of processes or images, so that on one kind of
device they are equal to the bit; with another size of the units they differ by rounding. Units are written whole: a run
that is killed loses at most those it was making, and the next run makes only what is missing (see `bench.data.shards`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.data import shards
from bench.data.shards import Manifest
from bench.generation.export import assemble, discard_assembled, write_pngs
from bench.generation.job import (
    GenerationJob,
    GenerationOptions,
    generation_identity,
    images_per_unit,
    prepare_generation,
    sampling_model,
    tuned_kernels,
)
from bench.generation.samplers import guided_samples
from bench.machine import ProcessGroup, arithmetic, status, track
from bench.records import check_disk, environment_record, job_facts, portable, take_directory
from dydit import InputError, Model
from dydit.inference import adopt_products
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
        earlier = world.agree(lambda: _take_directory(options.out, stack) if world.first else None)
        job = world.agree(lambda: prepare_generation(options, world.local_rank))
        identity = generation_identity(job)
        world.check_equal(lambda: job_facts(options) | {"job": identity})
        begun = world.share(world.agree(lambda: _begin(job, identity, earlier, world.size) if world.first else None))
        assert begun is not None
        manifest, missing = begun
        world.agree(lambda: _check_shared(options.out, manifest))
        if missing:
            adopt_products(manifest.identity.get("products", ()))
            model = world.agree(lambda: sampling_model(job, manifest.unit))
            start = time.perf_counter()
            _make_units(job, model, manifest, missing[world.rank :: world.size], world)
            world.wait()
            if world.first:
                status(_speed(manifest, missing, time.perf_counter() - start))
        if options.png:
            for unit in _shown(range(world.rank, manifest.units, world.size), "writing PNG files", world):
                write_pngs(options.out, manifest, unit)
        if not world.first:
            return None
        return assemble(options.out, manifest, lambda units: track(units, "assembling samples.npz"))


def make_unit(
    job: GenerationJob, model: Model, manifest: Manifest, unit: int, track: Track = lambda steps: steps
) -> tuple[shards.Images, shards.Labels]:
    """Images uint8 (n, H, W, C) and labels int64 (n,) of one unit.

    The batch is always a whole unit, so that the content of an image does not depend on how many there are.
    """
    indices = range(unit * manifest.unit, (unit + 1) * manifest.unit)
    x, y = guided_samples(
        job.solver,
        model,
        job.network.config,
        indices,
        seed=job.options.seed,
        scale=job.options.scale,
        device=job.device,
        track=track,
        classes=manifest.identity.get("classes"),
    )
    kept = len(manifest.indices(unit))
    images = job.decoder(x)[:kept].permute(0, 2, 3, 1).contiguous()
    return images.cpu().numpy(), y[:kept].cpu().numpy()


def _take_directory(directory: Path, stack: contextlib.ExitStack) -> Manifest | None:
    """Lock the output directory until the `stack` is closed; the manifest of an earlier run in it."""
    stack.enter_context(take_directory(directory, shards.FILES))
    return shards.find_manifest(directory)


def _check_shared(directory: Path, manifest: Manifest) -> None:
    """See that this process finds the manifest which the first one wrote: their units must lie in one directory."""
    there = shards.find_manifest(directory)
    if there is None or (there.identity, there.count) != (manifest.identity, manifest.count):
        raise InputError(
            f"output {directory}: is not one directory for all processes; give one on a file system that they share"
        )


def _begin(
    job: GenerationJob, identity: dict[str, Any], earlier: Manifest | None, processes: int
) -> tuple[Manifest, list[int]]:
    """Write the manifest and list the units that are missing."""
    options, directory = job.options, job.options.out
    unit = images_per_unit(options, earlier.unit if earlier else None)
    identity = dict(identity)
    if earlier is not None and "classes" not in earlier.identity and not job.labels.asked:
        identity.pop("classes", None)  # it began with all classes, by a version that knew no others, and goes on so
    if earlier is not None and "products" in earlier.identity:
        identity["products"] = earlier.identity["products"]
    drawn = identity.get("classes", range(job.labels.num_classes))
    for line in job.labels.remarks(options.checkpoint, drawn=drawn):
        status(line)
    manifest = Manifest(options.images, unit, job.decoder.shape, identity, record={})
    if earlier is not None:
        manifest.check_continues(earlier, directory)
    missing = shards.missing_units(directory, manifest, read=True, track=lambda units: track(units, "checking units"))
    check_disk(directory, shards.bytes_to_write(manifest, missing, png=options.png))
    if earlier is None:  # after all that could refuse the run
        manifest = dataclasses.replace(manifest, identity=identity | tuned_kernels(job, unit))
    if earlier is None or earlier.count != manifest.count:
        discard_assembled(directory)
        shards.write_manifest(directory, dataclasses.replace(manifest, record=_record(options, processes)))
    there = f"{directory}: {manifest.units - len(missing)} of {manifest.units} units are there"
    status(f"{there}, {len(missing)} to make; processes: {processes}" if missing else f"{there}, none to make")
    return manifest, missing


def _record(options: GenerationOptions, processes: int) -> dict[str, Any]:
    vae = options.vae and portable(options.vae)
    return environment_record(checkpoint=portable(options.checkpoint), vae=vae, processes=processes)


def _make_units(job: GenerationJob, model: Model, manifest: Manifest, units: list[int], world: ProcessGroup) -> None:
    """Make and write this process's units, one after another."""
    steps = len(job.solver.timesteps)
    bar = iter(_shown(range(steps * len(units)), f"steps of {len(units)} units of {manifest.unit} images", world))

    def advance(inner: Iterable[int]) -> Iterable[int]:
        for step in inner:
            next(bar, None)
            yield step

    for unit in units:
        images, labels = make_unit(job, model, manifest, unit, advance)
        shards.write_unit(job.options.out, manifest, unit, images, labels)
    next(bar, None)  # closes it


def _shown(work: range, label: str, world: ProcessGroup) -> Iterable[int]:
    """With progress in the first process; the shares of the others are as large, or one unit smaller."""
    return track(work, label) if world.first else work


def _speed(manifest: Manifest, units: list[int], seconds: float) -> str:
    images = sum(len(manifest.indices(unit)) for unit in units)
    return f"made {images} images in {seconds:.1f} s, {images / seconds:.3g} images/s"
