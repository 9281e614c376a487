"""Figures of what routing learned. Dark is closed, light is open, in colours whose lightness alone tells them apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.routing.learned import Floats, LearnedRouting
from bench.routing.tables import class_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = "cividis"
DPI = 110
STEPS_SHOWN = 6
LABELS_NAMED = 40
"""With more classes than these, ranks stand for names."""
PANELS_PER_ROW = 7


def draw_figures(learned: LearnedRouting) -> dict[str, Figure]:
    """All figures by the names of their files."""
    return {
        "routing_widths": width_figure(learned),
        "routing_tokens": token_figure(learned),
        "routing_positions": position_figure(learned),
        "routing_classes": class_figure(learned),
    }


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG without a date or a version in it."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def width_figure(learned: LearnedRouting) -> Figure:
    """Rates over timestep and layer: of heads and channel groups at every timestep, of tokens at the run's steps."""
    rates = {"attention heads (TDW)": learned.head_rate, "MLP channel groups (TDW)": learned.channel_rate}
    rates |= {
        f"tokens in the MLP, {branch} (SDT)": rate
        for branch, rate in zip(learned.branches, learned.token_rate, strict=True)
    }
    columns = 2
    rows = -(-len(rates) // columns)
    figure = _figure(9.5, 0.8 + rows * 2.6)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for spare in axes.flat[len(rates) :]:
        spare.set_axis_off()
    total, layers = learned.head_rate.shape
    for ax, (title, rate) in zip(axes.flat, rates.items(), strict=False):
        edges = np.arange(total + 1.0) if len(rate) == total else _edges(learned.timesteps, total)
        if len(rate) != total:
            rate = rate[np.argsort(learned.timesteps)]
        image = ax.pcolormesh(edges, np.arange(layers + 1) - 0.5, rate.T, cmap=COLOURS, vmin=0, vmax=1)
        ax.set_title(title, fontsize=10)
        _whole_ticks(ax.yaxis, layers)
    axes[0, 0].set_xlim(total, 0)  # in the order of sampling
    axes[0, 0].set_xticks(np.linspace(0, total, 6)[:-1])  # the last would touch the neighbour's first
    figure.supxlabel("timestep (sampling goes from left to right)", fontsize=10)
    figure.supylabel("layer", fontsize=10)
    _colorbar(figure, image, axes, "open share")
    return figure


def token_figure(learned: LearnedRouting) -> Figure:
    """The first images beside the share of layers whose MLP each token passes, at several steps of the run."""
    shown = np.unique(np.linspace(0, len(learned.timesteps) - 1, STEPS_SHOWN).round().astype(int))
    rows = [(image, maps) for image, maps in zip(learned.shown_images, learned.shown_maps, strict=True)]
    branches = len(learned.branches)
    columns = 1 + branches * len(shown)
    figure = _figure(0.75 * columns + 1.4, 0.85 * (len(rows) + 1) + 1.0)
    axes = figure.subplots(len(rows) + 1, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    image = None
    for row, (pixels, maps) in enumerate(rows):
        _picture(axes[row, 0], pixels)
        axes[row, 0].set_ylabel(f"label {learned.labels[row]}", fontsize=8)
        for column, (branch, step) in enumerate(_pairs(branches, shown), start=1):
            image = _map(axes[row, column], maps[branch, step].mean(0))
    axes[-1, 0].set_axis_off()
    axes[-1, 0].text(0.5, 0.5, "mean of\nall images", ha="center", va="center", fontsize=8)
    for column, (branch, step) in enumerate(_pairs(branches, shown), start=1):
        _map(axes[-1, column], learned.token_map[branch, step].mean(0))
        title = f"{learned.branches[branch]}\n" if step == shown[0] else "\n"
        axes[0, column].set_title(f"{title}t = {learned.timesteps[step]}", fontsize=8, loc="left")
    axes[0, 0].set_title("image", fontsize=8, loc="left")
    figure.suptitle("tokens that pass the MLP, at steps of the run", fontsize=10)
    _colorbar(figure, image, axes, "share of layers")
    return figure


def position_figure(learned: LearnedRouting) -> Figure:
    """Token rate by position in the image, one panel per layer, mean over images, steps and branches."""
    maps = learned.token_map.mean((0, 1), dtype=np.float64)
    columns = min(len(maps), PANELS_PER_ROW)
    rows = -(-len(maps) // columns)
    figure = _figure(1.5 * columns + 1.2, 1.7 * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(maps) :]:
        ax.set_axis_off()
    for layer, (ax, rate) in enumerate(zip(axes.flat, maps, strict=False)):
        image = _map(ax, rate)
        ax.set_title(f"layer {layer} ({rate.mean():.2f})", fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
    figure.suptitle("tokens that pass the MLP, by position", fontsize=10)
    _colorbar(figure, image, axes, "token rate")
    return figure


def class_figure(learned: LearnedRouting) -> Figure:
    """FLOPs ratio of the blocks by class, in rising order, with the standard error of each mean, and all images."""
    table = class_table(learned).sort_values("flops_ratio", kind="stable").reset_index(drop=True)
    figure = _figure(7.0, 3.6)
    ax = figure.subplots()
    rank = {label: position for position, label in enumerate(table["label"])}
    if len(table) <= LABELS_NAMED:
        places = [rank[label] for label in learned.labels]
        ax.plot(places, learned.image_flops_ratio.mean(1), ".", color="0.7", markersize=3, label="an image")
        ax.set_xticks(range(len(table)), [str(label) for label in table["label"]], fontsize=8)
        ax.set_xlabel("label, in rising order of its mean")
    else:
        ax.set_xlabel(f"rank among {len(table)} labels")
    errors = table["flops_ratio_stderr"].fillna(0.0)
    ax.errorbar(table.index, table["flops_ratio"], errors, fmt="o", color="0", markersize=4, capsize=3, label="class")
    mean = learned.flops_ratio.mean()
    ax.axhline(mean, color="0.4", linestyle="--", linewidth=1, label="all")
    ax.set_ylabel("FLOPs ratio of the blocks (claimed)")
    ax.set_title("work by class: mean and its standard error", fontsize=10)
    ax.legend(fontsize=8)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    # Not pyplot: no window, no global state, and Agg whatever the user's settings.
    return Figure(figsize=(width, height), layout="constrained")


def _pairs(branches: int, steps: NDArray[Any]) -> list[tuple[int, int]]:
    return [(branch, int(step)) for branch in range(branches) for step in steps]


def _map(ax: Axes, rate: Floats) -> Any:
    return ax.imshow(rate, cmap=COLOURS, vmin=0, vmax=1, interpolation="nearest")


def _picture(ax: Axes, pixels: NDArray[np.uint8]) -> None:
    if pixels.shape[-1] == 1:
        ax.imshow(pixels[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        ax.imshow(pixels)


def _edges(timesteps: NDArray[np.int64], total: int) -> Floats:
    """Borders halfway between neighbouring timesteps of the run, ascending, from 0 to `total`."""
    ordered = np.sort(timesteps).astype(float)
    return np.concatenate([[0.0], (ordered[1:] + ordered[:-1] + 1) / 2, [float(total)]])


def _whole_ticks(axis: Any, count: int) -> None:
    axis.set_ticks(range(0, count, -(-count // 10)))


def _colorbar(figure: Figure, image: Any, axes: Any, label: str) -> None:
    figure.colorbar(image, ax=axes, label=label, fraction=0.04, pad=0.02)
