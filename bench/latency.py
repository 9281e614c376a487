"""Latency harness: static, masked and realised inference side by side, in one process, in turns.

`static` is the DiT in the realised engine's own code; `masked` is DyDiT as the authors' release runs it (masks
multiply, nothing is skipped); `realised` skips. Without trained weights the routing is synthetic, drawn to meet the
FLOPs that the paper prints for the row, and the row says so. On a GPU the kernels are compiled and the fastest chosen
before the first call.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench import breakdown, device_memory, environment, results
from bench.arithmetic import cpu_threads
from bench.latency_cases import DTYPES, STEPS, Case, Options, build, cases, inputs, release, static_name, tune
from bench.progress import status
from bench.timing import Budget, Timed, in_turns, speedup
from dydit.config import model_config
from dydit.diffusion import Diffusion
from dydit.sampling import computing_in, denoise


def run(plans: Sequence[Options], directory: Path) -> pd.DataFrame:
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


def _record(plans: Sequence[Options]) -> dict[str, Any]:
    return environment.record(
        seed=plans[0].seed,
        options=[dataclasses.asdict(options) for options in plans],
        routing="synthetic routing",
        steps=STEPS,
    )


def _write(rows: list[dict[str, Any]], raw: list[dict[str, Any]], record: dict[str, Any], directory: Path) -> None:
    """After every batch size: what is finished is never lost."""
    frame = pd.DataFrame(rows)
    results.write_table(frame, directory, "latency")
    results.write_table(best_batches(frame), directory, "latency_best")
    results.write_run(record | {"samples": raw}, directory)


def run_profile(options: Options, directory: Path) -> pd.DataFrame:
    """Break one forward of every engine into its parts, at the first batch size, and write latency_profile.csv."""
    record = _record([options])
    tables = []
    with cpu_threads(options.threads or torch.get_num_threads()):
        for name in dict.fromkeys(static_name(name) for name in options.models):
            batch = options.batch[0]
            static, dynamic = build(name, options)
            engines = {
                key: case
                for key, case in cases(name, static, dynamic, 2 * batch, options).items()
                if "masked" not in key
            }
            given = inputs(static, batch, options)
            tune(engines, given)
            calls = {key: functools.partial(case.model, *given) for key, case in engines.items()}
            parts = breakdown.measure(calls, torch.device(options.device))
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
    results.write_table(frame, directory, "latency_profile")
    results.write_run(record, directory)
    return frame


def best_batches(frame: pd.DataFrame) -> pd.DataFrame:
    """Each engine at the batch size where it makes most images a second (the paper's protocol), and the ratio."""
    keys = ["model", "resolution", "device", "dtype"]
    best = frame.loc[frame.groupby([*keys, "lambda", "profile", "engine"])["images_per_s"].idxmax()]
    static = best.loc[best["engine"] == "static", [*keys, "batch", "images_per_s"]]
    joined = best[best["engine"] != "static"].merge(static, on=keys, suffixes=("", "_static"))
    joined["speedup_at_best"] = joined["images_per_s"] / joined["images_per_s_static"]
    joined["efficiency_at_best"] = joined["speedup_at_best"] / joined["limit"]
    columns = [*keys, "lambda", "profile", "engine", "batch", "images_per_s", "batch_static", "images_per_s_static"]
    return joined[[*columns, "speedup_at_best", "efficiency_at_best", "published_speedup", "routing"]]


def growth(frame: pd.DataFrame) -> pd.DataFrame:
    """How the realised speed-up and its efficiency change with tokens, batch and allocation profile, sorted by them."""
    rows = frame[frame["engine"] == "realised"].copy()
    sides = {
        (name, pixels): model_config(name, pixels).tokens
        for name, pixels in zip(rows["model"], rows["resolution"], strict=True)
    }
    rows["tokens"] = [sides[pair] for pair in zip(rows["model"], rows["resolution"], strict=True)]
    order = ["model", "device", "dtype", "lambda", "tokens", "batch", "profile"]
    measured = ["ms_median", "speedup", "speedup_low", "speedup_high", "limit", "efficiency", "rounds", "routing"]
    return rows.sort_values(order, ignore_index=True)[[*order, *measured]]


def write_growth(directories: Sequence[Path], directory: Path) -> pd.DataFrame:
    """Join `latency.csv` of finished runs into latency_growth.csv, with a run.json that names them.

    Raises:
        InputError: a directory without such a table.
    """
    frame = growth(pd.concat([results.read_table(run, "latency") for run in directories], ignore_index=True))
    results.write_table(frame, directory, "latency_growth")
    results.write_run(environment.record(sources=[environment.portable(str(run)) for run in directories]), directory)
    return frame


def _time_model(name: str, options: Options) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    config = model_config(name, options.resolution)
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    device_memory.check_fits(name, config, max(options.batch), device, dtype)
    static, dynamic = build(name, options)
    for batch in options.batch:
        status(f"{name} at {options.resolution}, batch {batch}, {options.device} {options.dtype}")
        engines = cases(name, static, dynamic, 2 * batch, options)
        given = inputs(static, batch, options)
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
        extra = {key: device_memory.measure(call, device) for key, call in calls.items()}
        rows = [
            _table_row(name, case, batch, times[key], times["static"], per_step[key], extra[key], options)
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


def _table_row(
    name: str,
    case: Case,
    batch: int,
    timed: Timed,
    static: Timed,
    sampled: Timed,
    extra: device_memory.Footprint,
    options: Options,
) -> dict[str, Any]:
    ratio, low, high = speedup(static, timed)
    limit = 1.0 / case.executed_ratio
    q25, q75 = timed.quartiles
    seconds = sampled.rounds_ms[0] / 1e3 / options.run_steps * STEPS / batch
    row = case.row
    graphed = options.graphs and case.engine != "masked"
    return {
        "model": name,
        "lambda": row.target if row else 1.0,
        "resolution": options.resolution,
        "batch": batch,
        "device": options.device,
        "dtype": options.dtype,
        "engine": case.engine,
        "profile": case.profile,
        "ms_median": timed.median,
        "ms_q25": q25,
        "ms_q75": q75,
        "images_per_s": batch / timed.median * 1e3,
        "speedup": ratio,
        "speedup_low": low,
        "speedup_high": high,
        "flops_ratio": case.executed_ratio,
        "limit": limit,
        "efficiency": ratio / limit,
        "published_speedup": row.speedup if row else None,
        "published_s_per_image": row.s_per_image if row else None,
        "s_per_image": seconds,
        "s_per_image_basis": "measured whole" if options.run_steps == STEPS else f"from {options.run_steps} steps",
        "first_ms": timed.first_ms,
        "rounds": len(timed.rounds_ms),
        # A replay allocates nothing: what it needs lies in the pool of its graph.
        "peak_mib": None if graphed else extra.peak_mib,
        "energy_j": extra.energy_j,
        "graphs": graphed,
        "routing": f"synthetic routing, {row.source}, seed {options.seed}" if row else "none",
    }
