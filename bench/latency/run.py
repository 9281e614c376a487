"""The whole of `bench latency`: options checked, the runs or forwards timed, and the table to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from bench.latency import candidates, learned_routing
from bench.latency.cases import LatencyOptions, TimingOptions
from bench.latency.measure import measure_breakdown, measure_latency
from bench.latency.tables import SHOWN, write_growth
from bench.latency.whole_runs import Runs
from bench.machine import Budget, cpu_threads
from bench.options import OutputOptions, option, shared_values
from bench.records import prepare_output


@dataclass(frozen=True, kw_only=True)
class LatencyRunOptions(TimingOptions, OutputOptions):
    """What to time at several resolutions, or what else to do: a profile, or the growth over finished runs."""

    resolution: Sequence[int] = option((256,), help="pixels, such as 256 512")
    seconds: float = option(Budget.seconds, help="time to spend on one model and batch")
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
    weights: str = option("ema", help="of that file, if it is a training checkpoint: ema or model")
    steps: int = option(50, metavar="N", help="of the sampler in these runs")
    profile: bool = option(False, help="break a forward into its parts instead of timing runs")
    growth: Sequence[Path] | None = option(
        None, metavar="DIR", help="time nothing; join finished runs into latency_growth.csv"
    )


def run_latency(options: LatencyRunOptions) -> pd.DataFrame:
    """Do what the options say, and write the tables to `options.out`; the table to show.

    Raises:
        InputError: anything that the machine, the paper's tables or a finished run lacks, before any long work.
    """
    if options.checkpoint is not None or options.model is not None:
        return _measure_runs(options, prepare_output(options.out))
    if options.growth:
        return write_growth(options.growth, prepare_output(options.out))
    shared = shared_values(options, TimingOptions)
    plans = [
        LatencyOptions(**shared, resolution=resolution, budget=Budget(seconds=options.seconds))
        for resolution in options.resolution
    ]
    directory = prepare_output(options.out)
    if options.profile:
        return measure_breakdown(plans[0], directory)
    return measure_latency(plans, directory)[SHOWN]


def _measure_runs(options: LatencyRunOptions, directory: Path) -> pd.DataFrame:
    """Time whole runs of a checkpoint or of factories' networks."""
    names, trained = options.model or (), None
    if options.checkpoint is not None:
        trained = learned_routing.named_checkpoint(options.checkpoint, names, options.resolution, options.weights)
    budget = Budget(seconds=options.seconds)
    runs = Runs(options.batch, options.steps, options.device, options.dtype, options.seed, budget)
    with cpu_threads(options.threads or torch.get_num_threads()):
        if trained is None:
            return candidates.measure_candidates(names, runs, directory)[candidates.SHOWN]
        return learned_routing.measure_learned(trained, runs, directory)[learned_routing.SHOWN]
