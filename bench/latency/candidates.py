"""Whole guided sampling runs of networks of anyone, timed in turns; the others are held against the first of them.

Image k has the same label and noise in every network.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.flops.executed import GUIDANCE, CountedModel, RunMacs, run_macs, sampler_of
from bench.latency.tables import PRODUCT, Beside, raw_samples, speed_columns
from bench.machine import DTYPES, Budget, Call, Timed, arithmetic_name, dense_product, in_turns, status
from bench.models import Candidate, SamplingModel, load_candidate
from bench.records import environment_record, write_run, write_table
from dydit import Diffusion, InputError, generate, guidance_branches


@dataclass(frozen=True)
class CandidateRuns:
    """What to time: runs of `steps` steps of some factories' networks, at some batch sizes (images)."""

    models: Sequence[str]
    batch: Sequence[int]
    steps: int
    device: str
    dtype: str
    tf32: bool
    seed: int
    budget: Budget


SHOWN = [
    "model",
    "batch",
    "steps",
    "ms_median",
    "speedup",
    "speedup_low",
    "speedup_high",
    "macs_ratio",
    "claimed_ratio",
]
"""The columns that people are shown."""


def measure_candidates(runs: CandidateRuns, directory: Path) -> pd.DataFrame:
    """Time the runs, and write latency.csv and run.json.

    `speedup` is over the first network, `flops_ratio` the multiply-adds executed over those that the first executed,
    counted on these very runs, `claimed_ratio` the same of what both claim, and `gap` executed over claimed, minus 1.

    Raises:
        InputError: a factory or network that does not fit, one name twice, or networks of different images.
    """
    if twice := [name for name in runs.models if list(runs.models).count(name) > 1]:
        raise InputError(f"--model {twice[0]}: given twice; every network has its own name")
    found = [load_candidate(name) for name in runs.models]
    check_same_images(found)
    facts = environment_record(models=list(runs.models), steps=runs.steps, guidance_scale=GUIDANCE, seed=runs.seed)
    for candidate in found:
        candidate.to(torch.device(runs.device), DTYPES[runs.dtype])
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for batch in runs.batch:
        status(f"{len(found)} networks, batch {batch}, {runs.steps} steps, {runs.device} {runs.dtype}")
        counts = {candidate.name: _counted(candidate, runs, batch) for candidate in found}
        models = {each.name: SamplingModel(each.module, DTYPES[runs.dtype]) for each in found}
        calls: dict[str, Call] = {
            each.name: functools.partial(_sample, each, models[each.name], runs, batch) for each in found
        }
        product, product_macs = dense_product(torch.device(runs.device), DTYPES[runs.dtype])
        times = in_turns(calls | {PRODUCT: product}, runs.budget, torch.device(runs.device), f"batch {batch}")
        beside = Beside(runs.models[0], times[runs.models[0]], times[PRODUCT], product_macs)
        rows += [_row(runs, batch, each.name, times[each.name], beside, counts) for each in found]
        samples += raw_samples(batch, times)
        write_table(pd.DataFrame(rows), directory, "latency")
        write_run(facts | {"samples": samples}, directory)
    return pd.DataFrame(rows)


def check_same_images(candidates: Sequence[Candidate]) -> None:
    """Refuse to compare networks that draw different images.

    Raises:
        InputError: two differ in channels, size or classes; both values are shown.
    """
    first = candidates[0]
    for other in candidates[1:]:
        for name in ("in_channels", "input_size", "num_classes"):
            mine, theirs = getattr(first.config, name), getattr(other.config, name)
            if mine != theirs:
                raise InputError(f"{first.name} has {name} = {mine}, {other.name} has {theirs}; compare like with like")


def _sample(candidate: Candidate, model: Any, runs: CandidateRuns, batch: int) -> None:
    shape, sampler = candidate.config, sampler_of(candidate.config)
    diffusion = Diffusion.linear().respaced(runs.steps, sampler)
    model.begin_run(diffusion.timestep_map.flip(0).tolist())
    size = (shape.in_channels, shape.input_size, shape.input_size)
    options: dict[str, Any] = {"seed": runs.seed, "scale": GUIDANCE, "sampler": sampler, "device": runs.device}
    generate(model, diffusion, size, shape.num_classes, range(batch), **options)


def _counted(candidate: Candidate, runs: CandidateRuns, batch: int) -> RunMacs:
    counted = CountedModel(SamplingModel(candidate.module, DTYPES[runs.dtype]))
    _sample(candidate, counted, runs, batch)
    return run_macs(counted, candidate.claimed_macs())


def _row(
    runs: CandidateRuns, batch: int, name: str, timed: Timed, beside: Beside, counts: Mapping[str, RunMacs]
) -> dict[str, Any]:
    own, base = counts[name], counts[beside.base]
    claims = own.claimed, base.claimed
    work = own.executed * batch * guidance_branches(GUIDANCE) * runs.steps
    return {
        "model": name,
        "lambda": None,
        "batch": batch,
        "device": runs.device,
        "dtype": arithmetic_name(runs.dtype, runs.tf32),
        "engine": "own",
        "profile": "",
        "steps": runs.steps,
        **speed_columns(batch, timed, beside, own.executed / base.executed, work),
        "claimed_ratio": claims[0] / claims[1] if claims[0] is not None and claims[1] else None,
        "gap": own.gap,
        "rounds": len(timed.rounds_ms),
    }
