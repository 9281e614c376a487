"""Whole guided sampling runs of networks of anyone; the others are held against the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from bench.flops.executed import CountedModel, RunMacs, run_macs
from bench.latency.whole_runs import Ran, Runs, sample_run, time_runs
from bench.machine import DTYPES
from bench.models import Candidate, SamplingModel, check_same_images, load_candidate
from bench.records import Results, environment_record
from dydit import InputError

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


def measure_candidates(models: Sequence[str], runs: Runs, results: Results) -> pd.DataFrame:
    """Time the runs, and write latency.csv and run.json.

    `speedup` is over the first network, `flops_ratio` the multiply-adds executed over those that the first executed,
    counted on these very runs, `claimed_ratio` the same of what both claim, and `gap` executed over claimed, minus 1.

    Raises:
        InputError: a factory or network that does not fit, one name twice, or networks of different images.
    """
    if twice := [name for name in models if list(models).count(name) > 1]:
        raise InputError(f"--model {twice[0]}: given twice; every network has its own name")
    found = {name: load_candidate(name) for name in models}
    check_same_images(list(found.values()))
    for candidate in found.values():
        candidate.to(torch.device(runs.device), DTYPES[runs.dtype])
    sampled = {name: SamplingModel(each.module, DTYPES[runs.dtype]) for name, each in found.items()}

    def describe(batch: int) -> dict[str, Ran]:
        counts = {name: _counted(each, runs, batch) for name, each in found.items()}
        return {name: _ran(name, counts, models[0], runs.passes(batch)) for name in models}

    facts = environment_record(models=list(models), **runs.facts())
    return time_runs(sampled, lambda name: found[name].config, runs, describe, results, facts, models[:1])


def _counted(candidate: Candidate, runs: Runs, batch: int) -> RunMacs:
    counted = CountedModel(SamplingModel(candidate.module, DTYPES[runs.dtype]))
    sample_run(counted, candidate.config, runs, batch)
    return run_macs(counted, candidate.claimed_macs())


def _ran(name: str, counts: Mapping[str, RunMacs], base: str, passes: int) -> Ran:
    if not counts[base].executed:
        raise InputError(
            f"{base}: a run executes no multiply-adds, which the others are held against; name another first"
        )
    own, claims = counts[name], (counts[name].claimed, counts[base].claimed)
    ratio = claims[0] / claims[1] if claims[0] is not None and claims[1] else None
    others = {"claimed_ratio": ratio, "gap": own.gap}
    return Ran(name, "own", own.executed / counts[base].executed, own.executed * passes, others=others)
