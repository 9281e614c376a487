"""Latency harness: static, plain, masked and realised inference side by side, in one process, in turns.

`static` is the DiT in the realised engine's own code, and `plain` the DiT through its plain modules; `masked` is DyDiT
as the authors' release runs it (plain modules, masks multiply, nothing is skipped); `realised` skips. So realised over
static is what skipping brings, masked over plain what masks cost, and static over plain what the engine brings. Other
libraries may run the static model, too (alternatives.py): speed-ups are over the fastest static one, whoever runs it.

Without trained weights the routing is synthetic, drawn to meet the FLOPs that the paper prints for the row, and the row
says so. On a GPU the kernels are compiled and the fastest chosen before the first call.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench.claims import static_name
from bench.latency import breakdown
from bench.latency.cases import (
    STEPS,
    Case,
    LatencyOptions,
    TimingOptions,
    alternative_cases,
    build_pair,
    random_inputs,
    release,
    timed_cases,
    tune,
)
from bench.latency.tables import PRODUCT, Beside, fastest, not_run_row, raw_samples, run_facts, table_row, write_tables
from bench.machine import (
    DTYPES,
    Budget,
    Call,
    arithmetic,
    check_fits,
    dense_product,
    in_turns,
    measure_footprint,
    status,
)
from bench.records import Results
from dydit import Diffusion, model_config
from dydit.sampling import computing_in, denoise


def measure_latency(plans: Sequence[LatencyOptions], results: Results) -> pd.DataFrame:
    """Time everything and write latency.csv, latency_best.csv, their markdown twins, and run.json with raw samples."""
    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    with options_arithmetic(plans[0]):
        record = run_facts(plans)
        for options in plans:
            for name in dict.fromkeys(static_name(name) for name in options.models):
                for found, samples in _time_model(name, options):
                    rows += found
                    raw += samples
                    write_tables(rows, raw, record, results)
    return pd.DataFrame(rows)


def options_arithmetic(options: TimingOptions) -> contextlib.AbstractContextManager[None]:
    """Inside this context torch uses the CPU threads and the arithmetic that the options ask for."""
    return arithmetic(options.threads or torch.get_num_threads(), options.tf32)


def measure_breakdown(options: LatencyOptions, results: Results) -> pd.DataFrame:
    """Break one forward of every engine into its parts, at the first batch size, and write latency_profile.csv."""
    tables = []
    with options_arithmetic(options):
        record = run_facts([options])
        for name in dict.fromkeys(static_name(name) for name in options.models):
            batch = options.batch[0]
            static, dynamic = build_pair(name, options)
            engines = {
                key: case
                for key, case in timed_cases(name, static, dynamic, 2 * batch, options).items()
                if "masked" not in key
            }
            given = random_inputs(static, batch, options)
            tune(engines, 2 * batch)
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
    results.write_table(frame, "latency_profile")
    results.write_record(record)
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
        tune(engines, 2 * batch)
        others, refused = alternative_cases(engines, static, given, options)
        engines |= others
        calls: dict[str, Call] = {key: functools.partial(case.model, *given) for key, case in engines.items()}
        product, product_macs = dense_product(device, dtype)
        label = f"{name} batch {batch}"
        times = in_turns(calls | {PRODUCT: product}, options.budget, device, label)
        per_step = in_turns(
            {key: _sampling(case, given, options.run_steps) for key, case in engines.items()},
            Budget(seconds=0, least=1, most=1, warmup=0),
            device,
            f"{label}, {options.run_steps} sampling steps",
        )
        release(engines)
        extra = {key: measure_footprint(call, device) for key, call in calls.items()}
        base = fastest(times, (key for key, case in engines.items() if case.static))
        beside = Beside(base, times[base], times[PRODUCT], product_macs, times["plain"])
        rows = [
            table_row(name, case, batch, (times[key], per_step[key]), beside, extra[key], options)
            for key, case in engines.items()
        ]
        rows += [not_run_row(name, engine, batch, reason, options) for engine, reason in refused.items()]
        samples = [
            {"model": name, "ran_in": {} if sample["case"] == PRODUCT else engines[sample["case"]].ran_in(options)}
            | sample
            for sample in raw_samples(batch, times)
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
