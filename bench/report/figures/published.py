"""Published work and FID: DyDiT's Table 8 beside what other papers print, and what was measured here where it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from bench.claims import PublishedValue, load_published
from bench.records import ROOT, shipped_data
from bench.report.figures.drawing import MARKERS, SERIES, Drawing, figure
from bench.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DYDIT, LITERATURE = "dydit_iclr2025", "literature_imagenet256"
FID, OTHERS, HERE = "FID-50K", "other papers", "measured here"
_MACS = ("FLOPs (MACs convention)", "Gflops")
"""Metrics that count the multiply-adds of one pass, as both papers do; other conventions are left out."""
_SPEED = ("acceleration", "speed-up")
_COMMAND = "python -m bench reproduce --tier full --data-root DIR"


def flops_front(runs: Sequence[Run]) -> Drawing | None:
    """FID against multiply-adds of one pass."""
    return _front(
        runs,
        "flops-fid",
        "FLOPs and FID",
        _MACS,
        "multiply-adds of one pass (G)",
        "Both axes are logarithmic; lower left is better. Only numbers printed as multiply-adds of one network pass "
        "are shown: other conventions differ by factors of two and more.",
    )


def time_front(runs: Sequence[Run]) -> Drawing | None:
    """FID against the speed-up over the baseline of the same paper."""
    return _front(
        runs,
        "time-fid",
        "Time and FID",
        _SPEED,
        "times as fast as the baseline of the same paper",
        "Lower right is better. Papers time on other GPUs, samplers and step counts: compare each with its own "
        "baseline, never two points of different papers.",
    )


def _front(
    runs: Sequence[Run], name: str, title: str, metrics: tuple[str, ...], axis: str, caption: str
) -> Drawing | None:
    rows = [*_series(DYDIT, metrics), *_series(LITERATURE, metrics), *_measured(runs, metrics)]
    if not rows:
        return None
    data = pd.DataFrame(rows, columns=["series", "paper", "row", axis, FID])
    counts = data.groupby("series", sort=False).size()
    best = data.loc[data[data["series"] != OTHERS].index].sort_values(FID).iloc[0]
    alt = (
        f"Scatter plot of {FID} against {axis}: "
        + ", ".join(f"{count} points of {series}" for series, count in counts.items())
        + f". The lowest {FID} of DyDiT's table is {best[FID]:g}, of {best['row']}, at {best[axis]:g}."
    )
    if HERE not in counts:
        caption += " Nothing on ImageNet was measured here yet: the command would."
    folder = shipped_data().relative_to(ROOT).as_posix()
    sources = tuple(f"{folder}/paper/{file}.csv" for file in (DYDIT, LITERATURE))
    return Drawing(name, f"{title}, as published", data, _draw, alt, caption, sources, _COMMAND)


def _series(file: str, metrics: tuple[str, ...]) -> list[tuple[str, str, str, float, float]]:
    """(series, paper, row, x, FID) of every row of a published file that prints both."""
    printed: dict[tuple[str, str, str], dict[str, PublishedValue]] = {}
    for value in load_published(file):
        if value.dataset == "ImageNet-256" and value.value is not None:
            printed.setdefault((value.paper, value.table, value.row), {}).setdefault(value.metric, value)
    rows = []
    for (paper, table, row), values in printed.items():
        x = next((values[metric].value for metric in metrics if metric in values), None)
        fid = values[FID].value if FID in values else None
        if x is None or fid is None or (file == DYDIT and table != "Table 8"):
            continue
        series = f"DyDiT, {row.split()[0].removeprefix('Dy')}" if file == DYDIT else OTHERS
        rows.append((series, paper, row, x, fid))
    return rows


def _measured(runs: Sequence[Run], metrics: tuple[str, ...]) -> list[tuple[str, str, str, float, float]]:
    """The same for rows of Table 8 whose FID was measured here, at the published x."""
    places = {row: x for _, _, row, x, _ in _series(DYDIT, metrics)}
    return [
        (HERE, run.place, judged.row, places[judged.row], judged.measured)
        for run in runs
        for judged in run.summary
        if judged.metric == FID and judged.paper_table == "DyDiT, Table 8" and judged.row in places
        if judged.measured is not None
    ]


def _draw(data: pd.DataFrame) -> Figure:
    x = data.columns[3]
    drawn = figure(7.2, 4.0)
    ax = drawn.subplots()
    for number, (series, rows) in enumerate(data.groupby("series", sort=False)):
        if series == OTHERS:
            label = f"{OTHERS} ({len(rows)} rows)"
            ax.plot(rows[x], rows[FID], "o", color=SERIES[5], markersize=3.5, alpha=0.75, label=label)
            continue
        line = "" if series == HERE else "-"
        rows = rows.sort_values(x)
        ax.plot(rows[x], rows[FID], line, color=SERIES[number], marker=MARKERS[number], markersize=5, label=series)
    ax.set_yscale("log")
    if not str(x).startswith("times"):
        ax.set_xscale("log")
    ax.set_xlabel(str(x))
    ax.set_ylabel(f"{FID}, ImageNet 256")
    _plain_ticks(ax)
    ax.legend(ncols=2)
    return drawn


def _plain_ticks(ax: object) -> None:
    """Numbers as people write them on logarithmic axes, at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis in (ax.xaxis, ax.yaxis):  # type: ignore[attr-defined]
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
