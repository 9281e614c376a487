"""The whole of `bench latency`: options checked, the runs or forwards timed, and the table to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.latency import candidates, learned_routing
from bench.latency.cases import LatencyOptions, TimingOptions
from bench.latency.measure import measure_breakdown, measure_latency, options_arithmetic
from bench.latency.tables import SHOWN, write_growth
from bench.machine import DTYPES, Budget, check_arithmetic
from bench.models import is_factory
from bench.options import PIXELS, SAMPLER_STEPS, SECONDS, AverageOptions, OutputOptions, option, shared_values
from bench.records import Results, take_results
from dydit import InputError


@dataclass(frozen=True, kw_only=True)
class LatencyRunOptions(TimingOptions, AverageOptions, OutputOptions):
    """What to time at several resolutions, or what else to do: a profile, or the growth over finished runs."""

    resolution: Sequence[int] = option((256,), help="pixels, such as 256 512", within=PIXELS)
    seconds: float = option(Budget.seconds, help="time to spend on one model and batch", within=SECONDS)
    checkpoint: str | None = option(
        None, metavar="FILE", help="time whole sampling runs of this trained DyDiT, by its own masks, instead"
    )
    model: Sequence[str] | None = option(
        None,
        metavar="NAME",
        repeated=True,
        help="package.module:factory: time whole sampling runs of networks of your own instead; given several times, "
        "the others are held against the first; with --checkpoint: such as DyDiT-XL/2, if the file does not name it",
    )
    steps: int = option(50, metavar="N", help="of the sampler in these runs", within=SAMPLER_STEPS)
    profile: bool = option(False, help="break a forward into its parts instead of timing runs")
    growth: Sequence[Path] | None = option(
        None, metavar="DIR", help="time nothing; join finished runs into latency_growth.csv"
    )


def run_latency(options: LatencyRunOptions) -> pd.DataFrame:
    """Do what the options say, and write the tables to `options.out`; the table to show.

    Raises:
        InputError: anything that the machine, the paper's tables or a finished run lacks, before any long work.
    """
    with take_results(options.out) as results:
        if options.checkpoint is not None:
            return _measure_learned(options, results)[learned_routing.SHOWN]
        if options.model is not None:
            return _measure_candidates(options, options.model, results)[candidates.SHOWN]
        if options.growth:
            return write_growth(options.growth, results)
        shared = shared_values(options, TimingOptions)
        plans = [
            LatencyOptions(**shared, resolution=resolution, budget=Budget(seconds=options.seconds))
            for resolution in options.resolution
        ]
        if options.profile:
            return measure_breakdown(plans[0], results)
        return measure_latency(plans, results)[SHOWN]


def _check_runs(options: LatencyRunOptions) -> None:
    if options.dtype not in DTYPES:
        raise InputError(f"dtype {options.dtype!r}: choose one of {', '.join(DTYPES)}")
    check_arithmetic(options.device, DTYPES[options.dtype], options.tf32)


def _measure_candidates(options: LatencyRunOptions, models: Sequence[str], results: Results) -> pd.DataFrame:
    _check_runs(options)
    runs = candidates.CandidateRuns(
        models,
        options.batch,
        options.steps,
        options.device,
        options.dtype,
        options.tf32,
        options.seed,
        Budget(seconds=options.seconds),
    )
    with options_arithmetic(options):
        return candidates.measure_candidates(runs, results)


def _measure_learned(options: LatencyRunOptions, results: Results) -> pd.DataFrame:
    _check_runs(options)
    names, resolution = options.model or (), options.resolution[0]
    if len(names) > 1 or any(is_factory(name) for name in names):
        raise InputError(
            f"--checkpoint and --model {' '.join(names)}: one run times one or the other; leave one out, or name the "
            "network of the file"
        )
    if names and len(options.resolution) != 1:
        raise InputError(f"--resolution {list(options.resolution)}: a checkpoint has one; give that of {names[0]}")
    run = learned_routing.LearnedRun(
        options.checkpoint or "",
        names[0] if names else None,
        resolution if names else None,
        options.weights,
        options.batch,
        options.steps,
        options.device,
        options.dtype,
        options.tf32,
        options.seed,
        Budget(seconds=options.seconds),
    )
    with options_arithmetic(options):
        return learned_routing.measure_learned(run, results)
