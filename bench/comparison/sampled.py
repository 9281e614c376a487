"""An entry as a network that is sampled: built from its trained file, run, and counted."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.comparison.entries import Entry
from bench.comparison.stages import NETWORK, stage_of
from bench.data import preprocessing
from bench.flops.executed import CountedModel, RunMacs, run_macs
from bench.generation.samplers import guided_samples, make_solver
from bench.machine import track
from bench.models import Candidate, SamplingModel, candidate_of, load_candidate
from bench.studies.samples import load_stage
from dydit import DyDiT, InputError, Observation, ObservedSampling, guidance_branches, macs
from dydit.baselines import Method, apply_method

GUIDANCE = 1.5
CPU = torch.device("cpu")
BATCH = 250
"""Images drawn at once."""


def build(entry: Entry, seed: int, models: Path) -> Candidate:
    """The network of an entry under its method, with a state of its own.

    Raises:
        InputError: its file is missing, the method does not fit it, or a factory's network draws other images.
    """
    if not entry.own:
        return candidate_of(apply_method(load_stage(stage_of(entry, seed), models), entry.method), entry.name)
    candidate = load_candidate(entry.network)
    for name in ("in_channels", "input_size", "num_classes"):
        mine, wanted = getattr(candidate.config, name), getattr(NETWORK, name)
        if mine != wanted:
            raise InputError(f"{entry.name} has {name} = {mine}, the networks of the comparison have {wanted}")
    if not candidate.config.learn_sigma:
        raise InputError(f"{entry.name}: predicts no variances, which the comparison's DDPM steps need")
    return candidate


def draw_images(entry: Entry, candidate: Candidate, images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Guided images uint8 (N, 1, 8, 8) and labels (N,); image k has the same label and noise in every entry."""
    model, solver = SamplingModel(candidate.module), make_solver(entry.sampler, entry.steps)
    drawn = []
    for first in track(range(0, images, BATCH), f"sampling {entry.name}, seed {seed}"):
        indices = range(first, min(first + BATCH, images))
        drawn.append(sample(model, solver, candidate, indices, seed))
    x, y = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return preprocessing.to_uint8(x), y


def sample(
    model: Any, solver: Any, candidate: Candidate, indices: Sequence[int], seed: int, device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """One batch: samples (N, C, S, S), of pixels or latents, and labels (N,)."""
    return guided_samples(solver, model, candidate.config, indices, seed=seed, scale=GUIDANCE, device=device)


def count(
    entry: Entry,
    candidate: Candidate,
    images: int,
    seed: int,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> RunMacs:
    """MACs of one image over its whole run, both branches of guidance: executed, and claimed where there is a claim."""
    solver = make_solver(entry.sampler, entry.steps)
    counted = CountedModel(SamplingModel(candidate.module, dtype))
    sample(counted, solver, candidate, range(images), seed, device)
    passes = guidance_branches(GUIDANCE) * len(solver.timesteps)
    claimed = _masks_claim(entry, candidate, images, seed) if _is_plain_dydit(candidate) else candidate.claimed_macs()
    found = run_macs(counted, claimed)
    return RunMacs(
        found.executed * passes,
        None if claimed is None else claimed * passes,
        found.least * passes,
        found.most * passes,
    )


def _is_plain_dydit(candidate: Candidate) -> bool:
    method = candidate.module
    plain = isinstance(method, Method) and not method.stateful
    return plain and isinstance(method.network, DyDiT) and method.routing is None


def _masks_claim(entry: Entry, candidate: Candidate, images: int, seed: int) -> float:
    """What the masks of a DyDiT leave, mean over the calls of a masked run of the same images."""
    network, solver = candidate.module.network, make_solver(entry.sampler, entry.steps)
    assert isinstance(network, DyDiT)
    found: list[float] = []

    def add(observed: Observation) -> None:
        found.append(macs(network.config, observed.routing).total())

    with torch.no_grad():
        model = ObservedSampling(network.route, len(solver.timesteps), guidance_branches(GUIDANCE), add)
        sample(model, solver, candidate, range(images), seed)
    return sum(found) / len(found)


def source_sha256(candidate: Candidate) -> str | None:
    """Of the code that decides what the network under its method computes; None where it cannot be read."""
    module = candidate.module
    if not isinstance(module, Method):
        return candidate.source_sha256()
    digest = hashlib.sha256()
    for part in (module, module.walk, module.blocks):
        for kind in type(part).__mro__:
            if kind.__module__.startswith("dydit."):
                digest.update(inspect.getsource(sys.modules[kind.__module__]).encode())
    return digest.hexdigest()
