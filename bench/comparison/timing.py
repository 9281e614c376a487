"""What every entry executes and takes, over whole sampling runs of the same images, timed in turns in one process."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.comparison.entries import STATIC, Entry
from bench.comparison.sampled import CPU, count, sample
from bench.flops.executed import RunMacs
from bench.generation.samplers import make_solver
from bench.machine import Budget, Call, Timed, in_turns, speedup, status
from bench.models import Candidate, SamplingModel
from dydit.flops import GIGA

SAMPLER_ALONE = "sampler alone"


@dataclass(frozen=True)
class Timings:
    """How runs are timed: images at once, seconds for all, the seed of labels and noise, and where they compute."""

    batch: int
    seconds: float
    seed: int
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32


def measure_runs(
    entries: Sequence[Entry], built: Mapping[str, Candidate], timings: Timings
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows by entry with work and time, and the raw samples.

    `executed_gmacs` and `claimed_gmacs` are of one image over its run, both branches. `network_speedup` is that of the
    run's time less `sampler_ms`, the same run's time with a network that returns zeros.

    Args:
        entries: the first is `static`.
        built: their networks by name, on the device and in the dtype of `timings`.
        timings: how.

    Raises:
        InputError: an operator of unknown cost.
    """
    status(f"counting {len(entries)} methods, {timings.batch} images each")
    where = (timings.device, timings.dtype)
    counts = {entry.name: count(entry, built[entry.name], timings.batch, timings.seed, *where) for entry in entries}
    calls = {
        entry.name: _call(entry, built[entry.name], SamplingModel(built[entry.name].module, timings.dtype), timings)
        for entry in entries
    }
    for entry in entries:
        calls[_alone(entry)] = _call(entry, built[entry.name], _zeros, timings)
    budget = Budget(seconds=timings.seconds)
    times = in_turns(calls, budget, timings.device, f"timing {len(entries)} methods, batch {timings.batch}")
    rows = [_row(entry, built[entry.name], times, counts, timings) for entry in entries]
    samples = [
        {"case": name, "first_ms": timed.first_ms, "rounds_ms": timed.rounds_ms} for name, timed in times.items()
    ]
    return rows, samples


def _alone(entry: Entry) -> str:
    return f"{SAMPLER_ALONE}: {entry.sampler}, {entry.steps} steps"


def _call(entry: Entry, candidate: Candidate, model: Any, timings: Timings) -> Call:
    solver = make_solver(entry.sampler, entry.steps)
    return functools.partial(sample, model, solver, candidate, range(timings.batch), timings.seed, timings.device)


def _zeros(x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
    return x.new_zeros(len(x), 2 * x.shape[1], *x.shape[2:])


def _row(
    entry: Entry,
    candidate: Candidate,
    times: Mapping[str, Timed],
    counts: Mapping[str, RunMacs],
    timings: Timings,
) -> dict[str, Any]:
    timed, counted, base = times[entry.name], counts[entry.name], counts[STATIC]
    ratio, low, high = speedup(times[STATIC], timed)
    alone, static_alone = times[_alone(entry)].median, _static_alone(times)
    executed = counted.executed / base.executed
    return {
        "method": entry.name,
        "family": entry.family,
        "sampler": entry.sampler,
        "steps": entry.steps,
        "batch": timings.batch,
        "parameters_m": sum(parameter.numel() for parameter in candidate.module.parameters()) / 1e6,
        "executed_gmacs": counted.executed / GIGA,
        "claimed_gmacs": None if counted.claimed is None else counted.claimed / GIGA,
        "gap": counted.gap,
        "flops_ratio": executed,
        "ms_median": timed.median,
        "speedup": ratio,
        "speedup_low": low,
        "speedup_high": high,
        "efficiency": ratio * executed,
        "sampler_ms": alone,
        "network_speedup": (times[STATIC].median - static_alone) / max(timed.median - alone, 1e-9),
        "rounds": len(timed.rounds_ms),
    }


def _static_alone(times: Mapping[str, Timed]) -> float:
    """Of the static run, whose sampler is the first that was asked for."""
    return next(timed.median for name, timed in times.items() if name.startswith(SAMPLER_ALONE))
