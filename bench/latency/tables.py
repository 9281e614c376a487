"""The tables of a latency run: one row per engine and batch, the best batches, growth over several runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.latency.cases import STEPS, Case, LatencyOptions
from bench.machine import Footprint, Timed, arithmetic_name, speedup
from bench.records import Results, clear_content_errors, environment_record, portable, read_table
from dydit import macs, model_config
from dydit.flops import MATMUL
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
    "base",
    "over_plain",
    "macs_ratio",
    "efficiency",
    "matmul_share",
    "published_speedup",
    "note",
]
"""The columns of latency.csv that people are shown."""


def run_facts(plans: Sequence[LatencyOptions]) -> dict[str, Any]:
    """What run.json says of these runs, without their samples."""
    return environment_record(
        seed=plans[0].seed,
        options=[dataclasses.asdict(options) for options in plans],
        routing="synthetic routing",
        steps=STEPS,
    )


def write_tables(
    rows: list[dict[str, Any]], raw: list[dict[str, Any]], record: dict[str, Any], results: Results
) -> None:
    """Write the tables and the record; after every batch size, so that what is finished is never lost."""
    frame = pd.DataFrame(rows)
    results.write_table(frame, "latency")
    results.write_table(best_batches(frame), "latency_best")
    results.write_record(record | {"tuned": tuned_products(), "samples": raw})


def best_batches(frame: pd.DataFrame) -> pd.DataFrame:
    """Each engine at the batch size where it makes most images a second (the paper's protocol), and the ratio.

    It is over the fastest static engine of the run at its own best batch size, which `base` names.
    """
    keys = ["model", "resolution", "device", "dtype"]
    timed = frame[frame["ms_median"].notna()].drop(columns="base")
    best = timed.loc[timed.groupby([*keys, "lambda", "profile", "engine"])["images_per_s"].idxmax()]
    statics = best[best["lambda"] == 1.0]
    base = statics.loc[statics.groupby(keys)["images_per_s"].idxmax(), [*keys, "engine", "batch", "images_per_s"]]
    joined = best.merge(base.rename(columns={"engine": "base"}), on=keys, suffixes=("", "_base"))
    joined = joined[joined["engine"] != joined["base"]].copy()
    joined["speedup_at_best"] = joined["images_per_s"] / joined["images_per_s_base"]
    joined["efficiency_at_best"] = joined["speedup_at_best"] * joined["flops_ratio"]
    columns = [*keys, "lambda", "profile", "engine", "batch", "images_per_s", "base", "batch_base", "images_per_s_base"]
    return joined[[*columns, "speedup_at_best", "efficiency_at_best", "published_speedup", "routing"]]


def growth(frame: pd.DataFrame) -> pd.DataFrame:
    """How time grows with tokens, batch, lambda and allocation profile, static and realised, sorted by them."""
    rows = frame[frame["engine"].isin(["static", "realised"])].copy()
    rows["macs_ratio"] = 1.0 / rows["flops_ratio"]  # runs of earlier versions call it `limit`
    sides = {
        (name, pixels): model_config(name, pixels).tokens
        for name, pixels in zip(rows["model"], rows["resolution"], strict=True)
    }
    rows["tokens"] = [sides[pair] for pair in zip(rows["model"], rows["resolution"], strict=True)]
    order = ["model", "device", "dtype", "engine", "lambda", "tokens", "batch", "profile"]
    measured = ["ms_median", "base", "speedup", "speedup_low", "speedup_high", "macs_ratio", "efficiency"]
    return rows.sort_values(order, ignore_index=True)[[*order, *measured, "rounds", "routing"]]


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


@dataclass(frozen=True)
class Beside:
    """What the calls of some rounds are set beside: calls of the same rounds.

    Args:
        base: the engine that `speedup` is over.
        static: its times.
        product: those of a large dense product in the same arithmetic.
        product_macs: its multiply-adds.
        plain: what `over_plain` is over; None leaves these columns out.
    """

    base: str
    static: Timed
    product: Timed
    product_macs: float
    plain: Timed | None = None


def fastest(times: Mapping[str, Timed], names: Iterable[str]) -> str:
    """The name of the call with the smallest median: a user would run that one."""
    return min(names, key=lambda name: times[name].median)


def speed_columns(batch: int, timed: Timed, beside: Beside, executed: float, work: float) -> dict[str, Any]:
    """The columns that every table of latencies has: milliseconds, images per second, speed-ups and executed work.

    Args:
        batch: images of a call.
        timed: the engine of the row.
        beside: what was timed in the same rounds; intervals are those of `bench.machine.speedup`.
        executed: multiply-adds that it executes over those of the static model.
        work: multiply-adds that one call executes. `matmul_share` is how many of them it does in a second over those
            that a large dense product does: 1 would be nothing but matrix products, at the rate of the largest.
    """
    ratio, low, high = speedup(beside.static, timed)
    q25, q75 = timed.quartiles
    columns: dict[str, Any] = {"ms_median": timed.median, "ms_q25": q25, "ms_q75": q75}
    columns |= {"images_per_s": batch / timed.median * 1e3}
    columns |= {"base": beside.base, "speedup": ratio, "speedup_low": low, "speedup_high": high}
    if beside.plain is not None:
        columns |= zip(("over_plain", "over_plain_low", "over_plain_high"), speedup(beside.plain, timed), strict=True)
    columns |= {"flops_ratio": executed, "macs_ratio": 1.0 / executed, "efficiency": ratio * executed}
    return columns | {"matmul_share": work / beside.product_macs * speedup(beside.product, timed)[0]}


PRODUCT = "dense product"
"""What the raw samples call the matrix product that is timed in the same rounds."""


def raw_samples(batch: int, times: Mapping[str, Timed]) -> list[dict[str, Any]]:
    """Every round of every engine, as run.json keeps them (milliseconds)."""
    return [
        {"batch": batch, "case": name, "first_ms": timed.first_ms, "rounds_ms": timed.rounds_ms}
        for name, timed in times.items()
    ]


def table_row(
    name: str,
    case: Case,
    batch: int,
    times: tuple[Timed, Timed],
    beside: Beside,
    extra: Footprint,
    options: LatencyOptions,
) -> dict[str, Any]:
    """A row of latency.csv, of the times of forwards and of some sampling steps.

    `macs_ratio` is the multiply-adds of the static model over those that the engine executes, and `efficiency` the
    speed-up over that. It is no bound: norms and activations, which are not counted, are saved, too.
    """
    timed, sampled = times
    seconds = sampled.rounds_ms[0] / 1e3 / options.run_steps * STEPS / batch
    row = case.row
    graphed = options.graphs and case.engine in ("static", "realised")
    executed = case.executed_ratio * macs(model_config(name, options.resolution)).total(MATMUL) * 2 * batch
    return {
        **_place(name, case.engine, batch, options, row.target if row else 1.0, case.profile),
        **speed_columns(batch, timed, beside, case.executed_ratio, executed),
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
        "note": "",
    }


def not_run_row(name: str, engine: str, batch: int, reason: str, options: LatencyOptions) -> dict[str, Any]:
    """A row of latency.csv of an alternative that could not be timed: no times, and the reason as its note."""
    return {**_place(name, engine, batch, options, 1.0, ""), "routing": "none", "note": reason}


def _place(name: str, engine: str, batch: int, options: LatencyOptions, target: float, profile: str) -> dict[str, Any]:
    """The columns that identify a row."""
    return {
        "model": name,
        "lambda": target,
        "resolution": options.resolution,
        "batch": batch,
        "device": options.device,
        "dtype": arithmetic_name(options.dtype, options.tf32),
        "engine": engine,
        "profile": profile,
    }
