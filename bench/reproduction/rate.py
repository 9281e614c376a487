"""The rate of a run that has not started: a few steps of its own network, engine and batch, timed on this device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.generation import decoding, samplers
from bench.generation.decoding import Decoder
from bench.generation.job import GenerationOptions, images_per_unit, prepare_generation, sampling_model, tuned_kernels
from bench.latency.cases import LatencyOptions, build_pair, timed_cases, tune
from bench.machine import DTYPES, Budget, Timed, arithmetic, in_turns, status
from bench.reproduction.network import Network
from dydit import DiTConfig, InputError, Model, guidance_branches, macs
from dydit.sampling import computing_in

MEASURED_STEPS = 4
"""Sampling steps that are timed, fewer on a CPU; spread over the schedule as a run of so many steps has them."""
CPU_WORK = 3e11
"""Multiply-adds of a call that is timed on a CPU, unless one step of one image is more; a larger one gains little."""
BUDGET = Budget(seconds=10.0, least=1, most=5, warmup=0)
"""Of the timing; a first call goes before it."""


@dataclass(frozen=True)
class Rate:
    """Images per second of one device, how that is known, and the raw times in ms behind it."""

    images_per_s: float
    basis: str
    rounds_ms: dict[str, Sequence[float]]


def measure_rate(options: GenerationOptions, network: Network, trained: bool) -> Rate:
    """Time a few sampling steps, and the decoding of as many images, in this process.

    Args:
        options: the run, with paths in place of published names; without `vae` where the autoencoder is not here.
        network: what it runs.
        trained: whether checkpoint and decoder are here to be used; else random weights stand in.
    """
    steps, batch = sample_of(options, network)
    few = dataclasses.replace(options, steps=steps)
    device = torch.device(options.device)
    status(f"timing {steps} of {options.steps} steps at batch {batch}, {options.device} {options.dtype}")
    with arithmetic(options.threads, options.tf32):
        model, decoder = _trained(few, batch) if trained else _stand_in(few, network, batch)
        calls: dict[str, Any] = {"steps": functools.partial(_draw, few, network.config, model, batch, device)}
        if decoder is not None:
            blank = torch.zeros(batch, *_shape(network.config), device=device)
            calls["decoding"] = functools.partial(decoder, blank)
        times = in_turns(calls, BUDGET, device, "timing")
    routing = ", synthetic routing" if network.dynamic else ""
    made_of = "the checkpoint's weights" if trained else f"random weights{routing}"
    basis = f"measured here: {steps} of {options.steps} steps at batch {batch}, median of {_rounds(times)}, {made_of}"
    if decoder is None:
        basis += ", without decoding"
    decoding_ms = times["decoding"].median if decoder is not None else 0.0
    per_batch = (times["steps"].median / steps * options.steps + decoding_ms) / 1e3
    return Rate(batch / per_batch, basis, {name: timed.rounds_ms for name, timed in times.items()})


def sample_of(options: GenerationOptions, network: Network) -> tuple[int, int]:
    """How many steps of how many images stand for the run: a unit on a GPU, as much as is quick on a CPU."""
    steps, batch = min(MEASURED_STEPS, options.steps), images_per_unit(options)
    if options.device == "cpu":
        work = macs(network.config).total() * guidance_branches(options.scale)
        steps = min(steps, max(int(CPU_WORK / work), 1))
        batch = min(batch, max(int(CPU_WORK / (work * steps)), 1))
    return steps, batch


def _rounds(times: dict[str, Timed]) -> str:
    count = len(times["steps"].rounds_ms)
    return f"{count} round{'s' if count > 1 else ''}"


def _shape(config: DiTConfig) -> tuple[int, int, int]:
    return config.in_channels, config.input_size, config.input_size


def _draw(options: GenerationOptions, config: DiTConfig, model: Model, batch: int, device: torch.device) -> Tensor:
    """What the sampler leaves of a batch of images, (N, C, S, S)."""
    solver = samplers.make_solver(options.sampler, options.steps)
    return samplers.guided_samples(
        solver, model, config, range(batch), seed=options.seed, scale=options.scale, device=device
    )[0]


def _trained(options: GenerationOptions, batch: int) -> tuple[Model, Decoder]:
    """The run's own network and decoder."""
    job = prepare_generation(options)
    tuned_kernels(job, batch)
    return sampling_model(job, batch), job.decoder


def _stand_in(options: GenerationOptions, network: Network, batch: int) -> tuple[Model, Decoder | None]:
    """The same network with random weights, a DyDiT with masks that meet its lambda; the decoder if it is here."""
    if network.name is None:
        raise InputError(f"{options.checkpoint}: cannot be timed without its autoencoder; give --vae DIR, or --rate")
    # A masked forward costs the same at every lambda.
    target = network.target or 0.5
    latency = LatencyOptions(
        models=[network.name],
        lambdas=[target],
        batch=[batch],
        device=options.device,
        dtype=options.dtype,
        profiles=["even"],
        resolution=network.shape[0],
        seed=options.seed,
    )
    static, dynamic = build_pair(network.name, latency)
    rows = batch * guidance_branches(options.scale)
    cases = timed_cases(network.name, static, dynamic, rows, latency)
    keys = {"static": "static", "masked": f"masked {target}", "realised": f"realised {target} even"}
    case = cases[keys[network.engine]]
    tune({network.engine: case}, rows)
    decoder = None
    if options.vae is not None or not network.latent:
        decoder = decoding.open_decoder(network.config, options.vae, options.device)
    return computing_in(DTYPES[options.dtype], case.model), decoder
