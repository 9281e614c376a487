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
from bench.latency.whole_runs import Runs
from bench.machine import Budget
from bench.options import PIXELS, SAMPLER_STEPS, SECONDS, AverageOptions, OutputOptions, option, shared_values
from bench.records import Results, take_results


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
    _refuse_what_is_not_used(options)
    with take_results(options.out) as results:
        if options.checkpoint is not None or options.model is not None:
            return _measure_runs(options, results)
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


def _refuse_what_is_not_used(options: LatencyRunOptions) -> None:
    """Each use of the command takes some of its options."""
    others = vars(options).keys() - {"out"}
    of_runs = {"batch", "steps", "device", "dtype", "tf32", "seed", "threads", "seconds"}
    if options.growth:
        options.refuse(others - {"growth"}, "--growth joins finished runs and times nothing")
    elif options.checkpoint is not None:
        used = of_runs | {"checkpoint", "weights", "model"} | ({"resolution"} if options.model else set())
        options.refuse(others - used, "--checkpoint times whole runs of one network")
    elif options.model is not None:
        options.refuse(others - of_runs - {"model"}, "--model times whole runs of networks of your own")
    elif options.profile:
        unused = {"steps", "weights", "seconds", "run_steps"}
        several = {name for name in ("batch", "resolution") if len(getattr(options, name)) > 1}
        options.refuse(unused | several, "--profile tells the parts of one forward")
    else:
        options.refuse({"steps", "weights"}, "it is for whole runs, of --checkpoint FILE or --model")


def _measure_runs(options: LatencyRunOptions, results: Results) -> pd.DataFrame:
    """Time whole runs of a checkpoint or of factories' networks."""
    names, trained = options.model or (), None
    if options.checkpoint is not None:
        trained = learned_routing.named_checkpoint(options.checkpoint, names, options.resolution, options.weights)
    budget = Budget(seconds=options.seconds)
    runs = Runs(options.batch, options.steps, options.device, options.dtype, options.tf32, options.seed, budget)
    with options_arithmetic(options):
        if trained is None:
            return candidates.measure_candidates(names, runs, results)[candidates.SHOWN]
        return learned_routing.measure_learned(trained, runs, results)[learned_routing.SHOWN]
