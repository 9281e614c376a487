"""What to generate, checked once: options, and the job made of them (network, engine, sampler, decoder, device)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.generation import samplers
from bench.generation.decoding import Decoder, open_decoder
from bench.machine import DTYPES, check_arithmetic, check_fits, status
from bench.records import tensors_sha256
from dydit import DiT, DyDiT, InputError, Model, checkpoint
from dydit.inference import Engine, WidthPlan
from dydit.sampling import computing_in

ENGINES = ("static", "masked", "realised")
UNIT = 64
"""Images per unit, unless a run is smaller."""


@dataclass(frozen=True)
class GenerationOptions:
    """What to generate; the defaults are those of the paper's headline rows (method: guidance 1.5, 250 DDPM steps).

    Args:
        checkpoint: a file, or a name of `dydit.checkpoint.PUBLISHED`.
        out: directory of the run, see `bench.data.shards`; on a file system that all processes share.
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
        vae: autoencoder for a model of latents, see `bench.generation.decoding.open_decoder`.
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
        if self.scale < 1.0:
            raise InputError(
                f"scale = {self.scale}; below 1 the label counts less than without guidance, which is scale 1"
            )
        if self.engine is not None and self.engine not in ENGINES:
            raise InputError(f"engine {self.engine!r}: choose one of {', '.join(ENGINES)}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        check_arithmetic(self.device, DTYPES[self.dtype], self.tf32)
        if self.model is None and self.resolution is not None:
            raise InputError(f"resolution {self.resolution}: belongs to a model's name; give --model, or leave it out")


@dataclass(frozen=True)
class GenerationJob:
    """A network in evaluation mode on the CPU, in float32, with its sampler, its engine's name and its decoder."""

    network: DiT
    engine: str
    run: samplers.Solver
    decoder: Decoder
    device: torch.device


def prepare_generation(options: GenerationOptions, local_rank: int = 0) -> GenerationJob:
    """Read the weights and the autoencoder, and choose engine, sampler and device.

    Raises:
        InputError: anything of these that cannot be had, or that does not fit the others.
    """
    run = samplers.make_solver(options.sampler, options.steps)
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
    return GenerationJob(network, engine, run, open_decoder(config, options.vae, device), device)


def sampling_model(options: GenerationOptions, job: GenerationJob, unit: int) -> Model:
    """The network on its device behind its engine: (x, t, y) in float32 -> output in float32.

    Raises:
        InputError: a guided batch of `unit` images does not fit the GPU.
    """
    dtype, network = DTYPES[options.dtype], job.network
    if job.device.type == "cuda":
        check_fits(type(network).__name__, network.config, unit, job.device, dtype)
    network.to(job.device, dtype)
    model: Model = network
    if isinstance(network, DyDiT) and job.engine == "realised":
        model = Engine(network, WidthPlan.from_routers(network, job.run.timesteps))
    elif job.engine == "static":
        model = Engine(network)
    return computing_in(dtype, model)


def generation_identity(options: GenerationOptions, job: GenerationJob) -> dict[str, Any]:
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


def _read_network(options: GenerationOptions) -> DiT:
    network, found = checkpoint.load_model(
        options.checkpoint, model=options.model, resolution=options.resolution, weights=options.weights
    )
    for note in found.notes:
        status(f"{options.checkpoint}: {note}")
    return network


def _choose_engine(network: DiT, engine: str | None) -> str:
    fitting: tuple[str, ...] = ("static",)
    if isinstance(network, DyDiT):  # the engine does not know the ablations
        fitting = ("realised", "masked") if network.realised else ("masked",)
    if engine is not None and engine not in fitting:
        kind = type(network).__name__
        raise InputError(f"engine {engine}: the checkpoint holds a {kind}, which runs as {' or '.join(fitting)}")
    return engine or fitting[0]
