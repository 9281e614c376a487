"""The figure of a comparison: quality against time, and time against multiply-adds with the line where they agree."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.comparison.entries import STATIC

DPI = 130
ON, OFF = "#00478f", "#b5651d"
"""Colours of the front and of the rest, which differ in lightness, too; the shape of the marker says the same."""


def write_figure(frame: pd.DataFrame, path: Path) -> None:
    """Write the figure as PNG without a date or a version in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5), layout="constrained")
    left, right, names = figure.subplots(1, 3, width_ratios=(5, 5, 3))
    base = frame[frame["method"] == STATIC].iloc[0]
    for number, row in enumerate(frame.itertuples(), 1):
        marker, colour = ("o", ON) if row.front_time else ("x", OFF)
        left.plot([row.ms_median] * 2, [row.FID_least, row.FID_most], color=colour, linewidth=0.8)
        for axes, place in (
            (left, (row.ms_median, row.FID)),
            (right, (row.flops_ratio, row.ms_median / base.ms_median)),
        ):
            axes.scatter(*place, marker=marker, color=colour)
            axes.annotate(str(number), place, textcoords="offset points", xytext=(4, 3), fontsize=7)
    listed = "\n".join(f"{number}  {name}" for number, name in enumerate(frame["method"], 1))
    names.set_axis_off()
    names.text(0, 1, listed, va="top", fontsize=8)
    left.set(
        xlabel=f"ms per run of {int(base.batch)} images", ylabel="FID[digits-cnn], mean of the seeds", yscale="log"
    )
    left.set_title("Quality against time; o: no other is better in both", fontsize=10)
    most = max(1.0, float(frame["flops_ratio"].max()))
    right.plot([0, most], [0, most], color="black", linewidth=0.8, label="time as multiply-adds")
    right.set(xlabel="executed multiply-adds / static", ylabel="time / static", xlim=(0, None), ylim=(0, None))
    right.legend(fontsize=8)
    right.set_title("Time against executed multiply-adds", fontsize=10)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
