"""Whole guided sampling runs of networks of anyone, timed in turns; the others are held against the first of them.

Image k has the same label and noise in every network.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from bench.flops.executed import GUIDANCE, CountedModel, RunMacs, run_macs, sampler_of
from bench.latency.tables import raw_samples, speed_columns
from bench.machine import DTYPES, Budget, Timed, arithmetic_name, in_turns, status
from bench.models import Candidate, SamplingModel, check_same_images, load_candidate
from bench.records import Results, environment_record
from dydit import Diffusion, InputError, generate


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


def measure_candidates(runs: CandidateRuns, results: Results) -> pd.DataFrame:
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
        calls = {each.name: functools.partial(_sample, each, models[each.name], runs, batch) for each in found}
        times = in_turns(calls, runs.budget, torch.device(runs.device), f"batch {batch}")
        rows += [_row(runs, batch, candidate.name, times, counts) for candidate in found]
        samples += raw_samples(batch, times)
        results.write_table(pd.DataFrame(rows), "latency")
        results.write_record(facts | {"samples": samples})
    return pd.DataFrame(rows)


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
    runs: CandidateRuns, batch: int, name: str, times: Mapping[str, Timed], counts: Mapping[str, RunMacs]
) -> dict[str, Any]:
    timed, base = times[name], runs.models[0]
    executed = counts[name].executed / counts[base].executed
    claims = counts[name].claimed, counts[base].claimed
    return {
        "model": name,
        "lambda": None,
        "batch": batch,
        "device": runs.device,
        "dtype": arithmetic_name(runs.dtype, runs.tf32),
        "engine": "own",
        "profile": "",
        "steps": runs.steps,
        **speed_columns(batch, timed, times[base], executed),
        "claimed_ratio": claims[0] / claims[1] if claims[0] is not None and claims[1] else None,
        "gap": counts[name].gap,
        "rounds": len(timed.rounds_ms),
    }
