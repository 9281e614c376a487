"""Latency harness: static, plain, masked and realised inference side by side, in one process, in turns.

`static` is the DiT in the realised engine's own code, and `plain` the DiT through its plain modules; `masked` is DyDiT
as the authors' release runs it (plain modules, masks multiply, nothing is skipped); `realised` skips. So realised over
static is what skipping brings, masked over plain what masks cost, and static over plain what the engine brings.

Without trained weights the routing is synthetic, drawn to meet the FLOPs that the paper prints for the row, and the row
says so. On a GPU the kernels are compiled and the fastest chosen before the first call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench.claims import static_name
from bench.latency import breakdown, learned_routing
from bench.latency.cases import (
    STEPS,
    Case,
    LatencyOptions,
    TimingOptions,
    build_pair,
    random_inputs,
    release,
    timed_cases,
    tune,
)
from bench.latency.tables import SHOWN, _record, _table_row, _write, write_growth
from bench.machine import DTYPES, Budget, check_device, check_fits, cpu_threads, in_turns, measure_footprint, status
from bench.options import OutputOptions, option, shared_values
from bench.records import prepare_output, write_run, write_table
from dydit import Diffusion, InputError, model_config
from dydit.sampling import computing_in, denoise


@dataclass(frozen=True, kw_only=True)
class LatencyRunOptions(TimingOptions, OutputOptions):
    """What to time at several resolutions, or what else to do: a profile, or the growth over finished runs."""

    resolution: Sequence[int] = option((256,), help="pixels, such as 256 512")
    seconds: float = option(Budget.seconds, help="time to spend on one model and batch")
    checkpoint: str | None = option(
        None, metavar="FILE", help="time whole sampling runs of this trained DyDiT, by its own masks, instead"
    )
    model: str | None = option(None, metavar="NAME", help="such as DyDiT-XL/2, if that file does not name its model")
    weights: str = option("ema", help="of that file, if it is a training checkpoint: ema or model")
    steps: int = option(50, metavar="N", help="DDPM steps of these runs")
    profile: bool = option(False, help="break a forward into its parts instead of timing runs")
    growth: Sequence[Path] | None = option(
        None, metavar="DIR", help="time nothing; join finished runs into latency_growth.csv"
    )


def run_latency(options: LatencyRunOptions) -> pd.DataFrame:
    """Do what the options say, and write the tables to `options.out`; the table to show.

    Raises:
        InputError: anything that the machine, the paper's tables or a finished run lacks, before any long work.
    """
    if options.checkpoint is not None:
        return _measure_learned(options)[learned_routing.SHOWN]
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


def _measure_learned(options: LatencyRunOptions) -> pd.DataFrame:
    check_device(options.device, DTYPES[options.dtype])
    if min(options.batch) < 1 or not 1 <= options.steps <= 1000:
        raise InputError(f"batch {list(options.batch)}, steps {options.steps}: whole numbers from 1, steps up to 1000")
    if options.model is not None and len(options.resolution) != 1:
        raise InputError(f"--resolution {list(options.resolution)}: a checkpoint has one; give that of {options.model}")
    run = learned_routing.LearnedRun(
        options.checkpoint or "",
        options.model,
        None if options.model is None else options.resolution[0],
        options.weights,
        options.batch,
        options.steps,
        options.device,
        options.dtype,
        options.seed,
        Budget(seconds=options.seconds),
    )
    with cpu_threads(options.threads or torch.get_num_threads()):
        return learned_routing.measure_learned(run, prepare_output(options.out))


def measure_latency(plans: Sequence[LatencyOptions], directory: Path) -> pd.DataFrame:
    """Time everything and write latency.csv, latency_best.csv, their markdown twins, and run.json with raw samples."""
    record = _record(plans)
    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    for options in plans:
        with cpu_threads(options.threads or torch.get_num_threads()):
            for name in dict.fromkeys(static_name(name) for name in options.models):
                for found, samples in _time_model(name, options):
                    rows += found
                    raw += samples
                    _write(rows, raw, record, directory)
    return pd.DataFrame(rows)


def measure_breakdown(options: LatencyOptions, directory: Path) -> pd.DataFrame:
    """Break one forward of every engine into its parts, at the first batch size, and write latency_profile.csv."""
    record = _record([options])
    tables = []
    with cpu_threads(options.threads or torch.get_num_threads()):
        for name in dict.fromkeys(static_name(name) for name in options.models):
            batch = options.batch[0]
            static, dynamic = build_pair(name, options)
            engines = {
                key: case
                for key, case in timed_cases(name, static, dynamic, 2 * batch, options).items()
                if "masked" not in key
            }
            given = random_inputs(static, batch, options)
            tune(engines, given)
            calls = {key: functools.partial(case.model, *given) for key, case in engines.items()}
            parts = breakdown.measure_parts(calls, torch.device(options.device))
            labels = {
                key: {
                    "model": name,
                    "lambda": case.row.target if case.row else 1.0,
                    "batch": batch,
                    "engine": case.engine,
                    "profile": case.profile,
                }
                for key, case in engines.items()
            }
            ratios = {key: case.executed_ratio for key, case in engines.items()}
            tables.append(breakdown.table(parts, labels, ratios))
    frame = pd.concat(tables, ignore_index=True)
    write_table(frame, directory, "latency_profile")
    write_run(record, directory)
    return frame


def _time_model(name: str, options: LatencyOptions) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    config = model_config(name, options.resolution)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    check_fits(name, config, max(options.batch), device, dtype)
    static, dynamic = build_pair(name, options)
    for batch in options.batch:
        status(f"{name} at {options.resolution}, batch {batch}, {options.device} {options.dtype}")
        engines = timed_cases(name, static, dynamic, 2 * batch, options)
        given = random_inputs(static, batch, options)
        tune(engines, given)
        calls = {key: functools.partial(case.model, *given) for key, case in engines.items()}
        label = f"{name} batch {batch}"
        times = in_turns(calls, options.budget, device, label)
        per_step = in_turns(
            {key: _sampling(case, given, options.run_steps) for key, case in engines.items()},
            Budget(seconds=0, least=1, most=1, warmup=0),
            device,
            f"{label}, {options.run_steps} sampling steps",
        )
        release(engines)
        extra = {key: measure_footprint(call, device) for key, call in calls.items()}
        rows = [
            _table_row(
                name, case, batch, times[key], times["static"], times["plain"], per_step[key], extra[key], options
            )
            for key, case in engines.items()
        ]
        samples = [
            {"model": name, "batch": batch, "case": key, "first_ms": timed.first_ms, "rounds_ms": timed.rounds_ms}
            for key, timed in times.items()
        ]
        yield rows, samples


def _sampling(case: Case, given: tuple[Tensor, Tensor, Tensor], steps: int) -> Callable[[], object]:
    """The last `steps` steps of a 250-step guided DDPM run, whole: network, guidance, noise and update."""
    x, _, y = given
    half = len(x) // 2
    model, state = computing_in(x.dtype, case.model), x[:half].float()
    whole = Diffusion.linear().respaced(STEPS)
    diffusion = Diffusion(whole.betas[:steps], whole.timestep_map[:steps])

    @torch.inference_mode()
    def run_() -> Tensor:
        return denoise(
            model,
            diffusion,
            state,
            y[:half],
            noise=lambda _: torch.randn_like(state),
            scale=1.5,
            null_label=int(y[-1]),
        )

    return run_
