"""The tables of a latency run: one row per engine and batch, the best batches, growth over several runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.latency.cases import STEPS, Case, LatencyOptions
from bench.machine import Footprint, Timed, arithmetic_name, speedup
from bench.records import Results, clear_content_errors, environment_record, portable, read_table
from dydit import model_config
from dydit.inference import tuned_products

SHOWN = [
    "model",
    "resolution",
    "lambda",
    "batch",
    "engine",
    "profile",
    "ms_median",
    "speedup",
    "over_plain",
    "macs_ratio",
    "efficiency",
    "published_speedup",
]
"""The columns of latency.csv that people are shown."""


def _record(plans: Sequence[LatencyOptions]) -> dict[str, Any]:
    return environment_record(
        seed=plans[0].seed,
        options=[dataclasses.asdict(options) for options in plans],
        routing="synthetic routing",
        steps=STEPS,
    )


def _write(rows: list[dict[str, Any]], raw: list[dict[str, Any]], record: dict[str, Any], results: Results) -> None:
    """After every batch size: what is finished is never lost."""
    frame = pd.DataFrame(rows)
    results.write_table(frame, "latency")
    results.write_table(best_batches(frame), "latency_best")
    results.write_record(record | {"tuned": tuned_products(), "samples": raw})


def best_batches(frame: pd.DataFrame) -> pd.DataFrame:
    """Each engine at the batch size where it makes most images a second (the paper's protocol), and the ratio."""
    keys = ["model", "resolution", "device", "dtype"]
    best = frame.loc[frame.groupby([*keys, "lambda", "profile", "engine"])["images_per_s"].idxmax()]
    static = best.loc[best["engine"] == "static", [*keys, "batch", "images_per_s"]]
    joined = best[best["engine"] != "static"].merge(static, on=keys, suffixes=("", "_static"))
    joined["speedup_at_best"] = joined["images_per_s"] / joined["images_per_s_static"]
    joined["efficiency_at_best"] = joined["speedup_at_best"] * joined["flops_ratio"]
    columns = [*keys, "lambda", "profile", "engine", "batch", "images_per_s", "batch_static", "images_per_s_static"]
    return joined[[*columns, "speedup_at_best", "efficiency_at_best", "published_speedup", "routing"]]


def growth(frame: pd.DataFrame) -> pd.DataFrame:
    """How the realised speed-up and its efficiency change with tokens, batch and allocation profile, sorted by them."""
    rows = frame[frame["engine"] == "realised"].copy()
    rows["macs_ratio"] = 1.0 / rows["flops_ratio"]  # runs of earlier versions call it `limit`
    sides = {
        (name, pixels): model_config(name, pixels).tokens
        for name, pixels in zip(rows["model"], rows["resolution"], strict=True)
    }
    rows["tokens"] = [sides[pair] for pair in zip(rows["model"], rows["resolution"], strict=True)]
    order = ["model", "device", "dtype", "lambda", "tokens", "batch", "profile"]
    measured = ["ms_median", "speedup", "speedup_low", "speedup_high", "macs_ratio", "efficiency", "rounds", "routing"]
    return rows.sort_values(order, ignore_index=True)[[*order, *measured]]


def write_growth(directories: Sequence[Path], results: Results) -> pd.DataFrame:
    """Join `latency.csv` of finished runs into latency_growth.csv, with a run.json that names them.

    Raises:
        InputError: a directory without such a table, or one with other columns.
    """
    tables = [read_table(run, "latency") for run in directories]
    with clear_content_errors(directories[0] / "latency.csv"):
        frame = growth(pd.concat(tables, ignore_index=True))
    results.write_table(frame, "latency_growth")
    results.write_record(environment_record(sources=[portable(str(run)) for run in directories]))
    return frame


def speed_columns(
    batch: int, timed: Timed, static: Timed, executed: float, plain: Timed | None = None
) -> dict[str, float]:
    """The columns that every table of latencies has: milliseconds, images per second, speed-ups and executed work.

    Args:
        batch: images of a call.
        timed: the engine of the row.
        static: what its `speedup` is over; the interval is that of `bench.machine.speedup`.
        executed: multiply-adds that it executes over those that `static` executes.
        plain: what its `over_plain` is over; None leaves these columns out.
    """
    ratio, low, high = speedup(static, timed)
    q25, q75 = timed.quartiles
    columns = {"ms_median": timed.median, "ms_q25": q25, "ms_q75": q75}
    columns |= {"images_per_s": batch / timed.median * 1e3}
    columns |= {"speedup": ratio, "speedup_low": low, "speedup_high": high}
    if plain is not None:
        columns |= zip(("over_plain", "over_plain_low", "over_plain_high"), speedup(plain, timed), strict=True)
    return columns | {"flops_ratio": executed, "macs_ratio": 1.0 / executed, "efficiency": ratio * executed}


def raw_samples(batch: int, times: Mapping[str, Timed]) -> list[dict[str, Any]]:
    """Every round of every engine, as run.json keeps them (milliseconds)."""
    return [
        {"batch": batch, "case": name, "first_ms": timed.first_ms, "rounds_ms": timed.rounds_ms}
        for name, timed in times.items()
    ]


def _table_row(
    name: str,
    case: Case,
    batch: int,
    timed: Timed,
    static: Timed,
    plain: Timed,
    sampled: Timed,
    extra: Footprint,
    options: LatencyOptions,
) -> dict[str, Any]:
    """A row of latency.csv.

    `macs_ratio` is the multiply-adds of the static model over those that the engine executes, and `efficiency` the
    speed-up over that. It is no bound: norms and activations, which are not counted, are saved, too.
    """
    seconds = sampled.rounds_ms[0] / 1e3 / options.run_steps * STEPS / batch
    row = case.row
    graphed = options.graphs and case.engine in ("static", "realised")
    return {
        "model": name,
        "lambda": row.target if row else 1.0,
        "resolution": options.resolution,
        "batch": batch,
        "device": options.device,
        "dtype": arithmetic_name(options.dtype, options.tf32),
        "engine": case.engine,
        "profile": case.profile,
        **speed_columns(batch, timed, static, case.executed_ratio, plain),
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
