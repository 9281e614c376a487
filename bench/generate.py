"""Class-conditional, guided generation: any number of processes, one set of images.

Image k is a function of (model, seed, k): its label and all its noise come from its own generator. Images are made in
units of consecutive indices, a batch each, whatever the number of processes or the count of images, so that on one kind
of device they are equal to the bit; between unit sizes they differ by rounding. Units are written whole, so that a
killed run loses at most those in flight, and the next run makes only what is missing (see `bench.shards`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import device_memory, environment, results, samplers, shards
from bench.arithmetic import arithmetic, check_arithmetic
from bench.decoding import Decoder, open_decoder
from bench.latency_cases import DTYPES
from bench.progress import status, track
from bench.shards import Manifest
from bench.world import World
from dydit import checkpoint
from dydit.config import model_config
from dydit.diffusion import Model
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.engine import Engine
from dydit.errors import InputError
from dydit.sampling import Track, computing_in, draw
from dydit.slices import WidthPlan

ENGINES = ("static", "masked", "realised")
UNIT = 64
"""Images per unit, unless a run is smaller."""


@dataclass(frozen=True)
class Options:
    """What to generate; the defaults are those of the paper's headline rows (method: guidance 1.5, 250 DDPM steps).

    Args:
        checkpoint: a file, or a name of `dydit.checkpoint.PUBLISHED`.
        out: directory of the run, see `bench.shards`; on a file system that all processes share.
        images: how many.
        model: name of the network, for files that do not name their own.
        resolution: side of the images in pixels, for a named network.
        weights: which weights of a training checkpoint to take, `ema` or `model`.
        engine: one of `ENGINES`; by default realised for a DyDiT, masked for an ablation of it, static for a DiT.
        sampler: one of `samplers.SAMPLERS`.
        steps: of the sampler.
        scale: of guidance; 1 is none.
        seed: of all labels and noise.
        unit: consecutive images per file and batch; by default that of the directory's run, for a new one `UNIT`, or
            `images` where those are fewer.
        device: `cpu`, or `cuda`, where each process takes the GPU of its local rank.
        dtype: of the network, `fp32` or `bf16`; the sampler's state and the decoder are float32.
        tf32: let float32 matrix products and convolutions on a GPU take TF32 inputs.
        threads: of the CPU, per process; sums depend on it.
        vae: autoencoder for a model of latents, see `bench.decoding.open_decoder`.
        png: also write one PNG file per image.

    Raises:
        InputError: a value out of range, or one that this machine does not have.
    """

    checkpoint: str
    out: Path
    images: int
    model: str | None = None
    resolution: int | None = None
    weights: str = "ema"
    engine: str | None = None
    sampler: str = "ddpm"
    steps: int = 250
    scale: float = 1.5
    seed: int = 0
    unit: int | None = None
    device: str = "cpu"
    dtype: str = "fp32"
    tf32: bool = False
    threads: int = 1
    vae: str | None = None
    png: bool = False

    def __post_init__(self) -> None:
        unit = UNIT if self.unit is None else self.unit
        for name, number in (("images", self.images), ("unit", unit), ("threads", self.threads)):
            if number < 1:
                raise InputError(f"{name} = {number}; it must be at least 1")
        if not math.isfinite(self.scale):
            raise InputError(f"scale = {self.scale}; give a finite guidance scale, such as 1.5")
        if self.engine is not None and self.engine not in ENGINES:
            raise InputError(f"engine {self.engine!r}: choose one of {', '.join(ENGINES)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        check_arithmetic(self.device, DTYPES[self.dtype], self.tf32)
        if self.model is None and self.resolution is not None:
            raise InputError(f"resolution {self.resolution}: belongs to a model's name; give --model, or leave it out")


@dataclass(frozen=True)
class Job:
    """A network in evaluation mode on the CPU, in float32, with its sampler, its engine's name and its decoder."""

    network: DiT
    engine: str
    run: samplers.Run
    decoder: Decoder
    device: torch.device


def run(options: Options) -> Path | None:
    """Make what is missing of a run and assemble it, together with the other processes that torchrun started.

    Returns:
        The path of `samples.npz` in the first process, None in the others.

    Raises:
        InputError: anything that would spoil the run, found before the first image is made; or images that came out as
            NaN, or a disk that filled up, after which the same call goes on.
    """
    world = World.from_environment()
    with contextlib.ExitStack() as stack:
        stack.enter_context(world.connected())
        stack.enter_context(arithmetic(options.threads, options.tf32))
        world.agree(lambda: _hold(options.out, stack) if world.first else None)
        job = world.agree(lambda: prepare(options, world.local_rank))
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
                shards.write_pngs(options.out, manifest, unit)
        if not world.first:
            return None
        return shards.assemble(options.out, manifest, lambda units: track(units, "assembling samples.npz"))


def prepare(options: Options, local_rank: int = 0) -> Job:
    """Read the weights and the autoencoder, and choose engine, sampler and device.

    Raises:
        InputError: anything of these that cannot be had, or that does not fit the others.
    """
    run = samplers.prepare(options.sampler, options.steps)
    device = torch.device(options.device)
    if options.device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise InputError(f"process {local_rank} of this machine has no GPU of its own; start fewer processes")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)  # Triton launches on the current one
    network = _read_network(options)
    config = network.config
    if options.sampler == "ddpm" and not config.learn_sigma:
        raise InputError(f"{options.checkpoint}: predicts no variances, which ddpm needs; use --sampler ddim")
    if options.scale != 1.0 and config.class_dropout_prob == 0.0:
        raise InputError(f"{options.checkpoint}: trained without a null label, which guidance needs; use --scale 1")
    engine = _choose_engine(network, options.engine)
    return Job(network, engine, run, open_decoder(config, options.vae, device), device)


def sampling_model(options: Options, job: Job, unit: int) -> Model:
    """The network on its device behind its engine: (x, t, y) in float32 -> output in float32.

    Raises:
        InputError: a guided batch of `unit` images does not fit the GPU.
    """
    dtype, network = DTYPES[options.dtype], job.network
    if job.device.type == "cuda":
        device_memory.check_fits(type(network).__name__, network.config, unit, job.device, dtype)
    network.to(job.device, dtype)
    model: Model = network
    if isinstance(network, DyDiT) and job.engine == "realised":
        model = Engine(network, WidthPlan.from_routers(network, job.run.timesteps))
    elif job.engine == "static":
        model = Engine(network)
    return computing_in(dtype, model)


def make_unit(
    options: Options, job: Job, model: Model, manifest: Manifest, unit: int, steps: Track = lambda steps: steps
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


def identity(options: Options, job: Job) -> dict[str, Any]:
    """What decides the content of image k beside the unit; the order is that in which differences are told."""
    on_cpu = job.device.type == "cpu"
    return {
        "model": type(job.network).__name__,
        "config": job.network.config.kwargs(),
        "weights_sha256": tensors_sha256(job.network.state_dict()),
        "seed": options.seed,
        "sampler": options.sampler,
        "steps": options.steps,
        "scale": options.scale,
        "engine": job.engine,
        "dtype": options.dtype,
        "tf32": options.tf32,
        "threads": options.threads if on_cpu else None,
        "device": job.device.type,
        "decoding": job.decoder.name,
        "vae_sha256": tensors_sha256(weights) if (weights := job.decoder.weights()) else None,
    }


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) over names, dtypes, shapes and bytes of tensors, sorted by name: whatever their file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_network(options: Options) -> DiT:
    source = options.checkpoint
    if options.model is None:
        if not source.endswith(".safetensors"):
            raise InputError(f"{source}: such files do not name their model; give --model, such as --model DyDiT-XL/2")
        return checkpoint.load_model(source)[0]
    config = model_config(options.model, options.resolution)
    network = (DyDiT if options.model.startswith("DyDiT") else DiT)(**config.kwargs()).eval()
    if checkpoint.load_into(network, checkpoint.read(source, options.weights), source):
        static = options.model.removeprefix("Dy")
        raise InputError(f"{source}: a static DiT, it holds no routers; use --model {static}")
    return network


def _choose_engine(network: DiT, engine: str | None) -> str:
    fitting: tuple[str, ...] = ("static",)
    if isinstance(network, DyDiT):  # the engine does not know the ablations
        fitting = ("realised", "masked") if network.realised else ("masked",)
    if engine is not None and engine not in fitting:
        kind = type(network).__name__
        raise InputError(f"engine {engine}: the checkpoint holds a {kind}, which runs as {' or '.join(fitting)}")
    return engine or fitting[0]


def _hold(directory: Path, stack: contextlib.ExitStack) -> None:
    """Take the output directory for this run alone, and remove what a killed one left half-written."""
    results.prepare_output(directory)
    stack.enter_context(shards.exclusive(directory))
    shards.clean(directory)
    if not (directory / shards.MANIFEST).exists() and any((directory / "units").glob("*.npz")):
        raise InputError(f"output {directory}: holds units without {shards.MANIFEST}; choose another directory")


def _begin(options: Options, job: Job, processes: int) -> tuple[Manifest, list[int]]:
    """Write the manifest and list the units that are missing."""
    directory = options.out
    found = shards.read_manifest(directory) if (directory / shards.MANIFEST).exists() else None
    unit = options.unit or (found.unit if found else min(UNIT, options.images))
    manifest = Manifest(options.images, unit, job.decoder.shape, identity(options, job), record={})
    if found is not None:
        _check_same(directory, found, manifest)
    checked = lambda units: track(units, "checking units")  # noqa: E731
    missing = shards.missing_units(directory, manifest, read=True, track=checked)
    _check_disk(directory, shards.bytes_to_write(manifest, missing, png=options.png))
    if found is None or found.count != manifest.count:
        shards.discard_assembled(directory)
        shards.write_manifest(directory, dataclasses.replace(manifest, record=_record(options, processes)))
    there = f"{directory}: {manifest.units - len(missing)} of {manifest.units} units are there"
    status(f"{there}, {len(missing)} to make; processes: {processes}" if missing else f"{there}, none to make")
    return manifest, missing


def _record(options: Options, processes: int) -> dict[str, Any]:
    vae = options.vae and environment.portable(options.vae)
    return environment.record(checkpoint=environment.portable(options.checkpoint), vae=vae, processes=processes)


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


def _check_disk(directory: Path, wanted: int) -> None:
    free = shutil.disk_usage(directory).free
    if wanted > free:
        raise InputError(
            f"output {directory}: the run writes {wanted / 2**30:.3g} GiB, the disk has {free / 2**30:.3g} GiB free; "
            "make room or choose another directory"
        )


def _make(options: Options, job: Job, model: Model, manifest: Manifest, units: list[int], world: World) -> None:
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


def _shown(work: range, label: str, world: World) -> Iterable[int]:
    """With progress in the first process; the shares of the others are as large, or one unit smaller."""
    return track(work, label) if world.first else work


def _speed(manifest: Manifest, units: list[int], seconds: float) -> str:
    images = sum(len(manifest.indices(unit)) for unit in units)
    return f"made {images} images in {seconds:.1f} s, {images / seconds:.3g} images/s"


def _tell(world: World, message: str) -> None:
    if world.first:
        status(message)
