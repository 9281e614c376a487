"""Times: speed-up against what is skipped, by lambda, with batch and tokens; parts of a forward; scores of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.report.figures.drawing import INK, SERIES, Drawing, Kind, errors, figure, look, one_legend, panels
from bench.report.runs import Run, with_table
from dydit import model_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LATENCY = "python -m bench latency --models DiT-S/2 DiT-B/2 DiT-XL/2 --batch 2 --profiles even --out DIR"
SPEEDUP = Kind("speedup-flops", "Speed-up against FLOPs", LATENCY)
LAMBDA = Kind("time-lambda", "Time by lambda", LATENCY)
GROWTH = Kind("growth", "Speed-up by batch and tokens", "python -m bench latency --growth RUN RUN --out DIR")
_PROFILE = "python -m bench latency --models DiT-XL/2 --lambdas 0.5 --batch 2 --profile --out DIR"
PARTS = Kind("parts", "Where the time goes", _PROFILE)
SCORES = Kind(
    "quality-speed",
    "Speed of FID, IS and KID",
    "python -m pytest bench/benchmarks/test_picture_scores.py --benchmark-only --large --tables DIR",
)
RATIO = "multiply-adds, static / realised"
_REALISED = ["machine", "model", "lambda", RATIO, "speedup", "speedup_low", "speedup_high", "published_speedup"]
_ENGINES = ("static", "plain", "masked", "realised")
_LEAST_LAMBDAS = 3
"""That a run must have timed, to show how time falls with lambda."""


def speedup_front(runs: Sequence[Run]) -> Drawing | None:
    """Speed-up against the work that is skipped, with the line where both are equal."""
    best = realised_rows(runs)
    if best is None:
        return None
    run, data = best
    top = data.sort_values("speedup").iloc[-1]
    alt = (
        f"Scatter plot of speed-up against the share of work skipped, {len(data)} measured points with intervals "
        "beside the published ones and the line where both are equal. Farthest out is "
        f"{top['model']} at lambda {top['lambda']:g}: {top['speedup']:.2f} times as fast for {top[RATIO]:.2f} times "
        "fewer multiply-adds; "
        f"{top['published_speedup']:g} was published."
    )
    caption = (
        "How many times as fast a network becomes that skips what its masks close, against how many times fewer "
        "multiply-adds it executes. On the line all that is skipped is gained. Bars are 95 % intervals; hollow marks "
        "are the paper's, on a V100. Masks are synthetic: drawn to meet the printed FLOPs."
    )
    return Drawing(SPEEDUP, data, _draw_speedup, alt, caption, (run.file("latency.csv"),))


def realised_rows(runs: Sequence[Run]) -> tuple[Run, pd.DataFrame] | None:
    """The run that timed the most networks at the most lambdas, and its rows of what skips; others would hide them."""
    best: tuple[Run, pd.DataFrame] | None = None
    most = 0
    columns = ("engine", "speedup", "speedup_low", "flops_ratio", "published_speedup", "batch")
    for run, table in with_table(runs, "latency", *columns):
        rows = table[(table["engine"] == "realised") & table["published_speedup"].notna()]
        timed = len(rows[["model", "lambda"]].drop_duplicates())
        if timed > most:
            rows = rows.assign(machine=run.machine, **{RATIO: 1 / rows["flops_ratio"]})
            most, best = timed, (run, rows[[*_REALISED, "profile", "batch"]])
    return best


def _draw_speedup(data: pd.DataFrame) -> Figure:
    drawn = figure(7.2, 4.0)
    ax = drawn.subplots()
    top = float(max(data[RATIO].max(), data["speedup"].max())) * 1.04
    ax.plot([1, top], [1, top], "--", color=INK, linewidth=1, label="ideal: all that is skipped is gained")
    for number, (model, rows) in enumerate(data.groupby("model", sort=False)):
        colour, marker = look(number)
        bars = errors(rows, "speedup", "speedup_low", "speedup_high")
        ax.errorbar(
            rows[RATIO], rows["speedup"], bars, fmt=marker, color=colour, capsize=2, markersize=5, label=str(model)
        )
        ax.plot(rows[RATIO], rows["published_speedup"], marker, color=colour, mfc="none", markersize=6)
    ax.set_xlabel(f"{RATIO} (times)")
    ax.set_ylabel("times as fast as static")
    ax.plot([], [], "o", color=INK, mfc="none", label="published (V100)")
    ax.legend(title=data["machine"].iloc[0])
    return drawn


def time_by_lambda(runs: Sequence[Run]) -> Drawing | None:
    """Milliseconds of a guided network pass of each engine by lambda."""
    keys = ["model", "lambda", "engine", "ms_median", "ms_q25", "ms_q75", "profile", "batch", "resolution"]
    found = []
    for run, table in with_table(runs, "latency", *keys):
        rows = table[table["engine"].isin(_ENGINES) & table["profile"].fillna("even").isin(["even", ""])]
        rows = rows[(rows["batch"] == rows["batch"].min()) & (rows["resolution"] == rows["resolution"].min())]
        many = rows.groupby("model")["lambda"].nunique()
        rows = rows[rows["model"].isin(many[many > _LEAST_LAMBDAS].index)]
        if len(rows):
            found.append((run, rows[keys]))
    if not found:
        return None
    run, data = _longest(found)
    alt = f"Time of one guided pass against lambda for {_listed(data['model'])}, a line for each engine: "
    alt += "; ".join(_span(model, rows) for model, rows in data.groupby("model", sort=False)) + "."
    caption = (
        f"Median time of one guided pass on {run.machine}; bars are quartiles of the rounds. Masked multiplies by "
        "masks and skips nothing, as the authors' release does; realised skips; static is the same engine without "
        "masks, at lambda 1."
    )
    return Drawing(LAMBDA, data, _draw_lambda, alt, caption, (run.file("latency.csv"),))


def _span(model: object, rows: pd.DataFrame) -> str:
    realised = rows[rows["engine"] == "realised"].sort_values("lambda")
    low, high = realised.iloc[0], realised.iloc[-1]
    return (
        f"{model} realised {low['ms_median']:.0f} ms at lambda {low['lambda']:g} "
        f"and {high['ms_median']:.0f} ms at {high['lambda']:g}"
    )


def _draw_lambda(data: pd.DataFrame) -> Figure:
    models = list(dict.fromkeys(data["model"]))
    drawn, axes = panels(len(models), sharey=False)
    for ax, model in zip(axes, models, strict=True):
        for engine, rows in data[data["model"] == model].groupby("engine", sort=False):
            number = _ENGINES.index(str(engine))
            _line(ax, rows, number, ("lambda", "ms_median", "ms_q25", "ms_q75"), str(engine))
        ax.set_title(str(model))
        ax.set_xlabel("lambda")
        ax.set_ylim(0)
    axes[0].set_ylabel("ms, one guided pass")
    one_legend(drawn, ncols=4)
    return drawn


def _line(ax: Axes, rows: pd.DataFrame, number: int, columns: tuple[str, str, str, str], label: str) -> None:
    """A line with bars of the columns (x, y, low, high), from left to right, as series of that number."""
    x, y, low, high = columns
    rows = rows.sort_values(x)
    colour, marker = look(number)
    ax.errorbar(
        rows[x],
        rows[y],
        errors(rows, y, low, high),
        fmt=f"{marker}-",
        color=colour,
        capsize=2,
        markersize=4,
        label=label,
    )


def growth(runs: Sequence[Run]) -> Drawing | None:
    """Speed-up against batch size, by model, tokens, lambda and arithmetic; of the run with the most cases."""
    keys = ["model", "dtype", "tokens", "batch", "lambda", "speedup", "speedup_low", "speedup_high"]
    found = []
    for run, table in with_table(runs, "latency_growth", "engine", "profile", *keys):
        found.append((run, table.loc[(table["engine"] == "realised") & (table["profile"] == "even"), keys]))
    if not found:
        return None
    run, data = _longest(found)
    alt = (
        f"Speed-up against batch size, a panel for each of {_listed(data['model'])} in {_listed(data['dtype'])}, "
        "a line for each number of tokens and lambda: "
        f"from {data['speedup'].min():.2f} to {data['speedup'].max():.2f} times as fast."
    )
    caption = (
        f"Realised over the fastest static engine on {run.machine}, with heads, channel groups and tokens skipped "
        "evenly; bars are 95 % intervals."
    )
    return Drawing(GROWTH, data, _draw_growth, alt, caption, (run.file("latency_growth.csv"),))


def _draw_growth(data: pd.DataFrame) -> Figure:
    networks = sorted(data.groupby(["dtype", "model"]), key=lambda pair: (pair[0][0] != "fp32", _width(pair[0][1])))
    drawn, axes = panels(len(networks))
    keys = ["tokens", "lambda"]
    series = {key: number for number, (key, _) in enumerate(data.groupby(keys))}
    for ax, ((dtype, model), here) in zip(axes, networks, strict=True):
        for (tokens, target), rows in here.groupby(keys):
            columns = ("batch", "speedup", "speedup_low", "speedup_high")
            _line(ax, rows, series[tokens, target], columns, f"{tokens} tokens, lambda {target:g}")
        ax.set_title(f"{model}, {dtype}")
        ax.set_xlabel("batch (images)")
        ax.set_xticks(sorted(set(here["batch"])))
        ax.margins(x=0.15)
    one_legend(drawn, ncols=3)
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("times as fast as static")
    return drawn


def parts(runs: Sequence[Run]) -> Drawing | None:
    """Where the time of a forward goes, static beside realised."""
    keys = ["model", "lambda", "batch", "engine", "part", "ms"]
    found = with_table(runs, "latency_profile", *keys)
    if not found:
        return None
    run, data = found[-1]
    whole = data.groupby(["model", "lambda", "engine"], sort=False)["ms"].sum().reset_index().to_dict("records")
    told = [f"{row['engine']} {row['model']} at lambda {row['lambda']:g} takes {row['ms']:.0f} ms" for row in whole]
    largest = data.sort_values("ms").iloc[-1]["part"]
    alt = f"Stacked bars of the parts of one forward: {', '.join(told)}. The largest part is {largest}."
    caption = (
        f"The parts of one guided pass on {run.machine}, timed one by one; static is the same engine with everything "
        "open, plain the modules as they are."
    )
    return Drawing(PARTS, data[keys], _draw_parts, alt, caption, (run.file("latency_profile.csv"),))


def _draw_parts(data: pd.DataFrame) -> Figure:
    order = data.groupby("part")["ms"].sum().sort_values(ascending=False)
    named = list(order.index[: len(SERIES) - 1])
    groups = list(data.groupby(["model", "lambda", "engine"], sort=False))
    drawn = figure(7.2, 1.3 + 0.55 * len(groups))
    ax = drawn.subplots()
    for place, (_, rows) in enumerate(groups):
        times = rows.set_index("part")["ms"]
        shown = [(part, float(times.get(part, 0.0))) for part in named]
        shown.append(("all other parts", float(times.drop(named, errors="ignore").sum())))
        ends = np.cumsum([0.0] + [ms for _, ms in shown])
        for number, (part, ms) in enumerate(shown):
            label = part if place == 0 else None
            ax.barh(place, ms, left=ends[number], color=SERIES[number], height=0.6, label=label)
    names = [f"{engine}\n{model}, λ {target:g}" for (model, target, engine), _ in groups]
    ax.set_yticks(range(len(groups)), names)
    ax.invert_yaxis()
    ax.set_xlabel("ms")
    one_legend(drawn, ncols=4)
    return drawn


def scores(runs: Sequence[Run]) -> Drawing | None:
    """How fast pictures are scored, and in how much memory, beside torch-fidelity; of the run with the most sizes."""
    both = [f"{name}{by}" for by in ("", "_torch_fidelity") for name in ("images_per_s", "peak_mib")]
    found = with_table(runs, "quality_speed", "pictures", "speedup", *both)
    if not found:
        return None
    run, table = _longest(found)
    data = table.sort_values("pictures")[["pictures", "speedup", *both]]
    largest = data.iloc[-1]
    alt = (
        "Pictures per second and peak memory against the number of pictures, this suite beside torch-fidelity. "
        f"{int(largest['pictures'])} pictures are scored at {largest['images_per_s']:.1f} pictures a second, "
        f"{largest['speedup']:.2f} times torch-fidelity's rate."
    )
    caption = (
        f"FID, IS and KID of PNG files of 256 x 256 by InceptionV3 on {run.machine}: the same files, weights and "
        "scores on both sides, from reading to the last score. Memory is all that the process holds at its peak."
    )
    return Drawing(SCORES, data, _draw_scores, alt, caption, (run.file("quality_speed.csv"),))


def _draw_scores(data: pd.DataFrame) -> Figure:
    drawn, axes = panels(2, sharey=False)
    for ax, (column, label) in zip(
        axes, {"images_per_s": "pictures per second", "peak_mib": "MiB"}.items(), strict=True
    ):
        for number, (ending, name) in enumerate({"": "this suite", "_torch_fidelity": "torch-fidelity"}.items()):
            colour, marker = look(number)
            ax.plot(data["pictures"], data[column + ending], f"{marker}-", color=colour, markersize=4, label=name)
        ax.set_xscale("log")
        ax.set_xticks(data["pictures"], [str(count) for count in data["pictures"]])
        ax.minorticks_off()
        ax.set_xlabel("pictures")
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
    one_legend(drawn, ncols=2)
    return drawn


def _longest(found: Sequence[tuple[Run, pd.DataFrame]]) -> tuple[Run, pd.DataFrame]:
    """The run with the most rows: those of several, drawn together, would hide each other."""
    return max(found, key=lambda pair: len(pair[1]))


def _width(model: object) -> int:
    return model_config(str(model)).hidden_size


def _listed(column: pd.Series) -> str:
    return ", ".join(dict.fromkeys(map(str, column)))
