"""Published work, time and FID, each row against its source's own baseline, beside what was measured here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from bench.claims import LITERATURE_FILES, LiteraturePoint, literature_points
from bench.records import ROOT, shipped_data
from bench.report.figures.drawing import INK, Drawing, Kind, figure, look, one_legend, plain_ticks
from bench.report.figures.speed import RATIO, realised_rows
from bench.report.runs import Run, with_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FID, WORK, SHARE, LESS = "FID-50K", "multiply-adds of an image (T)", "work / baseline's", "baseline's work / work"
FID_RATIO, SPEEDUP, LEFT_OUT = "FID / baseline's", "times as fast as the baseline", "left out"
HERE, TABLE_8 = "measured here", "DyDiT, Table 8"
_REPRODUCE = "python -m bench reproduce --tier full --data-root DIR"
FLOPS = Kind("flops-fid", "FLOPs and FID, as published", _REPRODUCE)
TIME = Kind("time-fid", "Time, FID and work, as published", _REPRODUCE)
_TERA = 1e12
_COLUMNS = ["series", "group", "row", "baseline", WORK, SHARE, LESS, SPEEDUP, FID, FID_RATIO, "counted", LEFT_OUT]


def flops_front(runs: Sequence[Run]) -> Drawing:
    """FID against the multiply-adds of an image, and both relative to the baseline of the same source."""
    published = _published(WORK)
    data = _with_own(published, _scored(runs, published))
    drawn = data[data[LEFT_OUT] == ""]
    best = drawn[drawn["series"] == TABLE_8].sort_values(FID).iloc[0]
    alt = (
        f"Two scatter plots of FID, {_counts(drawn)}: against the multiply-adds of an image, from "
        f"{drawn[WORK].min():.3g} to {drawn[WORK].max():.3g} T, and both over those of the baseline. The lowest FID of "
        f"{TABLE_8} is {best[FID]:g}, of {best['row']}, at {best[SHARE]:.2f} of the baseline's work."
    )
    caption = (
        "Lower left is better. Work is that of one image: multiply-adds of all steps and guidance branches, counted "
        "as in the DyDiT paper; a column of the data, counted, says how each source's numbers come to that. Hollow "
        "marks are the baselines, with a line to each row of theirs. Samplers, guidance and trainings differ "
        f"between sources: compare a row with its own baseline, as on the right. {_left_out(data)}"
    )
    if HERE not in set(drawn["series"]):
        caption += " No FID on ImageNet was measured here yet: the command would."
    return _drawing(FLOPS, data, _draw_flops, alt, caption)


def time_front(runs: Sequence[Run]) -> Drawing:
    """FID over the baseline's against the speed-up, and the speed-up against the work that is saved."""
    data = _with_own(_published(SPEEDUP), _timed(runs))
    drawn = data[data[LEFT_OUT] == ""]
    saving = drawn[drawn[LESS] > 1]
    below = int((saving[SPEEDUP] < saving[LESS]).sum())
    alt = (
        f"Two scatter plots, {_counts(drawn)}: FID over the baseline's against the speed-up, and the speed-up against "
        f"how many times less work is done, with the line where both are equal. Of {len(saving)} rows that save work, "
        f"{below} lie below the line."
    )
    caption = (
        "Left, lower right is better. Right, on the line all saved work is saved time. Every speed-up is one of time, "
        "over the baseline of the same source: devices, batch sizes and step counts differ between sources. "
        f"{_left_out(data)} Points that were measured here are synthetic masks, which no FID belongs to, and runs "
        "of compare-methods."
    )
    return _drawing(TIME, data, _draw_time, alt, caption)


def _drawing(kind: Kind, data: pd.DataFrame, draw: Callable[[pd.DataFrame], Figure], alt: str, caption: str) -> Drawing:
    folder = shipped_data().relative_to(ROOT).as_posix()
    return Drawing(kind, data, draw, alt, caption, tuple(f"{folder}/paper/{file}" for file in LITERATURE_FILES))


def _published(needed: str) -> pd.DataFrame:
    """The points that print what is needed, and those that are left out with the reason."""
    rows = [
        (
            _short(point), point.source, point.row, point.baseline, point.work and point.work / _TERA, point.share,
            point.share and 1 / point.share, point.speedup, point.fid, point.fid_ratio, point.counted, point.left_out,
        )
        for point in literature_points()
    ]  # fmt: skip
    data = pd.DataFrame(rows, columns=_COLUMNS)
    return data[(data[needed].notna() & data[FID].notna()) | (data[LEFT_OUT] != "")]


def _short(point: LiteraturePoint) -> str:
    """The name of a paper, without its number and place."""
    name = re.split(r" \(|,|/FlexDiT", point.paper)[0]
    return TABLE_8 if name == "DyDiT" else name


def _scored(runs: Sequence[Run], published: pd.DataFrame) -> list[pd.DataFrame]:
    """FIDs that were measured here, at the printed work of the same row of Table 8."""
    printed = published[published["series"] == TABLE_8].set_index("row")
    bases = printed[printed["baseline"]].set_index("group")[FID]
    tables = []
    for run in runs:
        for judged in run.summary:
            if judged.metric == FID and judged.paper_table == TABLE_8 and judged.row in printed.index:
                row = printed.loc[[judged.row]].assign(series=HERE, row=f"{judged.row}, {run.place}", baseline=False)
                row[FID] = judged.measured
                tables.append(row.assign(**{FID_RATIO: row[FID] / bases[row["group"].iloc[0]]}).dropna(subset=[FID]))
    return tables


def _timed(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """Speed-ups that were measured here, over the work that was executed."""
    tables = []
    if timed := realised_rows(runs):
        run, rows = timed
        names = [f"Dy{model} lambda={target:g}" for model, target in zip(rows["model"], rows["lambda"], strict=True)]
        tables.append(pd.DataFrame({"row": names, LESS: rows[RATIO], SPEEDUP: rows["speedup"]}).assign(group=run.place))
    for run, table in with_table(runs, "methods", "method", "flops_ratio", "speedup"):
        own = {"row": table["method"], LESS: 1 / table["flops_ratio"], SPEEDUP: table["speedup"]}
        tables.append(pd.DataFrame(own).assign(group=run.place))
    return [table.assign(series=HERE, baseline=False, counted="executed", **{LEFT_OUT: ""}) for table in tables]


def _with_own(published: pd.DataFrame, own: list[pd.DataFrame]) -> pd.DataFrame:
    """Published and own points in one table, with every column."""
    return pd.concat([published, *own], ignore_index=True)[_COLUMNS]


def _counts(drawn: pd.DataFrame) -> str:
    counts = drawn.groupby("series", sort=False).size()
    return f"{len(drawn)} rows ({', '.join(f'{count} of {series}' for series, count in counts.items())})"


def _left_out(data: pd.DataFrame) -> str:
    """How many rows are not drawn, for the caption."""
    count = int((data[LEFT_OUT] != "").sum())
    return f"{count} rows are left out; the data name each with the reason."


def _draw_flops(data: pd.DataFrame) -> Figure:
    drawn = figure(9.0, 5.2)
    left, right = drawn.subplots(1, 2)
    _scatter(left, data, WORK, FID, joined=True)
    _scatter(right, data, SHARE, FID_RATIO)
    for ax in (left, right):
        ax.set(xscale="log", yscale="log")
        plain_ticks(ax)
    one_legend(drawn, ncols=4)
    return drawn


def _draw_time(data: pd.DataFrame) -> Figure:
    drawn = figure(9.0, 5.2)
    left, right = drawn.subplots(1, 2)
    _scatter(left, data, SPEEDUP, FID_RATIO)
    _scatter(right, data, LESS, SPEEDUP)
    left.set_yscale("log")
    plain_ticks(left)
    top = float(data.loc[data[SPEEDUP].notna(), LESS].max())
    right.plot([1, top], [1, top], "--", color=INK, linewidth=1, label="all saved work is saved time")
    one_legend(drawn, ncols=4)
    return drawn


def _scatter(ax: Axes, data: pd.DataFrame, x: str, y: str, joined: bool = False) -> None:
    """Every series in its colour and marker; `joined` to its hollow baseline, or with a cross for all of them."""
    data = data[data[LEFT_OUT] == ""]
    names = [name for name in dict.fromkeys(data["series"]) if name != HERE]
    for name, series in data[data[x].notna() & data[y].notna()].groupby("series", sort=False):
        colour, marker = (INK, "*") if name == HERE else look(names.index(str(name)))
        rest = series[~series["baseline"]]
        ax.plot(rest[x], rest[y], marker, color=colour, markersize=4.5, label=str(name))
        for base in series[series["baseline"]].to_dict("records") if joined else ():
            ax.plot(base[x], base[y], marker, color=colour, mfc="none", markersize=7)
            for row in rest[rest["group"] == base["group"]].to_dict("records"):
                ax.plot([base[x], row[x]], [base[y], row[y]], color=colour, linewidth=0.5, alpha=0.5)
    if not joined:
        ax.plot(1, 1, "+", color=INK, markersize=12, label="the baselines")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
