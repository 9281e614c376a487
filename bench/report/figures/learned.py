"""What trainings gave: widths by timestep, quality against work of all methods of a study, curves of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import pandas as pd

from bench.report.figures.drawing import SERIES, Drawing, Kind, figure, look, one_legend, panels
from bench.report.runs import Run, with_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS = Kind("widths", "Widths by timestep", "python -m bench routing --checkpoint FILE --out DIR")
METHODS = Kind("methods", "Quality against work of all methods", "python -m nox -s small_scale")
_FINETUNE = "python -m bench finetune --recipe NAME --from FILE --data DIR --out DIR, or nox -s small_scale"
TRAINING = Kind("training", "Training curves", _FINETUNE)
_RATES = ("head_rate", "group_rate", "token_rate_conditional")
_NAMES = {"head_rate": "heads", "group_rate": "channel groups", "token_rate_conditional": "tokens, with label"}
_POINTS = 400
"""Of a training curve: what a screen can show."""


def widths(runs: Sequence[Run]) -> Drawing | None:
    """The open share of heads, channel groups and tokens by timestep."""
    found = with_table(runs, "routing_timesteps", "timesteps", *_RATES)
    if not found:
        return None
    tables = []
    for run, table in found:
        ends = table["timesteps"].astype(str).str.split("-", expand=True).astype(float)
        tables.append(
            table[["timesteps", *_RATES]].assign(run=run.place.rpartition("/")[2], timestep=ends.mean(axis=1))
        )
    data = pd.concat(tables, ignore_index=True)
    spans = [
        f"{name}: heads {rows['head_rate'].min():.0%} to {rows['head_rate'].max():.0%}, "
        f"channel groups {rows['group_rate'].min():.0%} to {rows['group_rate'].max():.0%}, "
        f"tokens {rows['token_rate_conditional'].min():.0%} to {rows['token_rate_conditional'].max():.0%}"
        for name, rows in data.groupby("run", sort=False)
    ]
    alt = f"Open share against timestep, a panel for each of {len(found)} runs. Over the timesteps, {'; '.join(spans)}."
    caption = "Mean over layers. Sampling goes from left to right, from noise to the image."
    sources = tuple(run.file("routing_timesteps.csv") for run, _ in found)
    return Drawing(WIDTHS, data, _draw_widths, alt, caption, sources)


def _draw_widths(data: pd.DataFrame) -> Figure:
    groups = list(data.groupby("run", sort=False))
    drawn, axes = panels(len(groups))
    for ax, (name, rows) in zip(axes, groups, strict=True):
        for number, rate in enumerate(_RATES):
            colour, marker = look(number)
            ax.plot(rows["timestep"], rows[rate], f"{marker}-", color=colour, label=_NAMES[rate])
        ax.set_title(str(name))
        ax.set_xlim(1000, 0)
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("timestep")
    axes[0].set_ylabel("open share")
    axes[0].legend(loc="lower right")
    return drawn


def methods(runs: Sequence[Run]) -> Drawing | None:
    """FID against the FLOPs ratio of every method of a study, a panel for each size."""
    tables = []
    found = with_table(runs, "means", "size", "run", "lambda", "steps", "ratio")
    for run, table in found:
        metric = next((column for column in table if str(column).startswith("FID[")), None)
        if metric is None:
            continue
        usual = table["steps"].mode().iloc[0]
        rows = table[(table["steps"] == usual) & table[metric].notna()].rename(columns={metric: "FID"})
        spread = rows.get(f"{metric}_std", pd.Series(0.0, rows.index))
        rows = rows.assign(run=rows["run"].replace({"both": "DyDiT"}))
        rows = rows[["size", "run", "lambda", "ratio", "FID"]].assign(std=spread, metric=metric, study=run.place)
        # A model without routers does all the work.
        tables.append(rows.assign(ratio=rows["ratio"].fillna(1.0)))
    if not tables:
        return None
    data = pd.concat(tables, ignore_index=True)
    best = [
        f"{size}: {rows.loc[rows['FID'].idxmin(), 'run']} at ratio {rows.loc[rows['FID'].idxmin(), 'ratio']:.2f}"
        for size, rows in data.groupby("size", sort=False)
    ]
    alt = f"FID against the FLOPs ratio of {data['run'].nunique()} methods, a panel for each size. Lowest of size "
    alt += "; ".join(best) + "."
    caption = (
        f"Mean over trainings, {', '.join(dict.fromkeys(data['metric']))}, not comparable with FID on InceptionV3. The "
        "line joins the best method at each amount of work (the Pareto front)."
    )
    sources = tuple(run.file("means.csv") for run, _ in found)
    return Drawing(METHODS, data, _draw_methods, alt, caption, sources)


def _draw_methods(data: pd.DataFrame) -> Figure:
    groups = list(data.groupby(["study", "size"], sort=False))
    drawn, axes = panels(len(groups), height=3.4, below=0.9, sharey=False)
    names = list(dict.fromkeys(data["run"]))
    for ax, ((_, size), rows) in zip(axes, groups, strict=True):
        rows = rows.sort_values(["ratio", "FID"])
        front = rows[rows["FID"] <= rows["FID"].cummin()]
        ax.plot(front["ratio"], front["FID"], "-", color=SERIES[0], linewidth=1)
        for name, own in rows.groupby("run", sort=False):
            colour, marker = look(names.index(name))
            ax.plot(own["ratio"], own["FID"], marker, color=colour, markersize=5, label=name)
        ax.set_title(f"size {size}")
        ax.set_xlabel("FLOPs ratio of the blocks")
    axes[0].set_ylabel("FID")
    one_legend(drawn, ncols=4)
    return drawn


def training(runs: Sequence[Run]) -> Drawing | None:
    """Loss and FLOPs ratio by step of every training that left its log, and of DyDiT and its control in studies."""
    logs, studies = with_table(runs, "log", "step", "loss"), with_table(runs, "curves", "size", "run", "step", "loss")
    if not logs and not studies:
        return None
    tables = []
    for run, table in logs:
        thin = table.groupby(table.index * _POINTS // max(len(table), 1)).mean(numeric_only=True)
        tables.append(thin[[c for c in ("step", "loss", "ratio") if c in thin]].assign(run=run.place))
    tables += [_of_study(run, table) for run, table in studies]
    data = pd.concat(tables, ignore_index=True)
    ends = [
        f"{name}: {rows['loss'].iloc[-1]:.4g} after {rows['step'].iloc[-1]:.0f}" for name, rows in data.groupby("run")
    ]
    alt = f"Loss by step of {data['run'].nunique()} trainings. Last of {'; '.join(ends)}."
    caption = (
        f"Means over neighbouring steps, at most {_POINTS} points for each training; of a study the largest size, over "
        "the seeds whose files keep the course of their training."
    )
    sources = tuple(run.file(name) for name, found in (("log.csv", logs), ("curves.csv", studies)) for run, _ in found)
    return Drawing(TRAINING, data, _draw_training, alt, caption, sources)


def _of_study(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Mean curves of DyDiT by lambda and of the model trained as long, of the size that stands last."""
    largest = table.loc[table["run"] == "both", "size"].iloc[-1]
    chosen = table[table["run"].isin(("both", "control")) & (table["size"] == largest)]
    target = chosen["lambda"].map(lambda value: "" if pd.isna(value) else f" lambda {value}")
    name = run.place.rpartition("/")[2] + ": " + chosen["run"].replace({"both": "DyDiT"}) + target
    groups = chosen.assign(run=name).groupby(["run", "step"], sort=False, as_index=False)
    return cast(pd.DataFrame, groups[["loss", "ratio"]].mean())


def _draw_training(data: pd.DataFrame) -> Figure:
    kinds = [kind for kind in ("loss", "ratio") if kind in data]
    drawn = figure(7.2, 3.2)
    axes = drawn.subplots(1, len(kinds), squeeze=False)[0]
    for ax, kind in zip(axes, kinds, strict=True):
        for number, (name, rows) in enumerate(data.groupby("run", sort=False)):
            ax.plot(rows["step"], rows[kind], color=look(number)[0], linewidth=1.2, label=name)
        ax.set_xlabel("step")
        ax.set_title("loss" if kind == "loss" else "FLOPs ratio of the blocks")
    axes[0].set_yscale("log")
    one_legend(drawn, ncols=2)
    return drawn
