"""A figure, its data and its words; drawn once for the same content, in colours that the page chooses."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dydit.checkpoint.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, LINE = "#23272e", "#b9bfc8"
SERIES = ("#1f6fb2", "#b4560f", "#1d7f57", "#a23b86", "#6b5fc0", "#7a7014", "#a8323e")
"""Text and axes, grid, and the lines of a figure, all at least 4.5 : 1 against white; a page may replace them."""
_ROLES = {INK: "currentColor", LINE: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: Any = {
    "font.size": 10.0,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Kind:
    """What a figure shows, whether it can be drawn or not.

    Args:
        name: of its file and its place on the page.
        title: above it.
        command: makes its data.
    """

    name: str
    title: str
    command: str


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Args:
        kind: what it shows.
        data: all that is drawn, a row for each point.
        draw: makes the figure of the data.
        alt: what a reader who cannot see it should know.
        caption: what is shown and how to read it.
        sources: the files that the data are from.
    """

    kind: Kind
    data: pd.DataFrame
    draw: Callable[[pd.DataFrame], Figure]
    alt: str
    caption: str
    sources: tuple[str, ...]


def figure(width: float = 7.2, height: float = 3.6) -> Figure:
    """An empty figure, in inches: no window, no global state, and Agg whatever the user's settings."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(count: int, height: float = 3.2, below: float = 0.0, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, up to three beside each other, with room in inches below them."""
    columns = min(count, 3)
    rows = -(-count // columns)
    drawn = figure(7.2, height * rows + below)
    axes = list(drawn.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return drawn, axes[:count]


def look(number: int) -> tuple[str, str]:
    """Colour and marker of the series of that number: neighbours differ in both, and 49 series in one of them."""
    return SERIES[number % len(SERIES)], MARKERS[(number + number // len(SERIES)) % len(MARKERS)]


def one_legend(drawn: Figure, ncols: int) -> None:
    """One legend for all panels, below them: every label once."""
    handles = {label: each for ax in drawn.axes for each, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols)


def plain_ticks(ax: Axes) -> None:
    """Numbers as people write them on the logarithmic axes of a plot, at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())


def errors(rows: pd.DataFrame, middle: str, low: str, high: str) -> Any:
    """The distances from the middle to both ends of an interval, as `errorbar` takes them."""
    return [(rows[middle] - rows[low]).clip(lower=0), (rows[high] - rows[middle]).clip(lower=0)]


def to_svg(drawing: Drawing, cache: Path | None = None) -> str:
    """The figure as an `<svg>` element that takes its colours from the page and tells its alternative text.

    Args:
        drawing: the figure.
        cache: folder of what was drawn before, by the hash of data, words, code and matplotlib's version.
    """
    path = None if cache is None else cache / f"{drawing.kind.name}-{_content(drawing)}.svg"
    if path is not None and path.is_file():
        head, _, text = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        if head == _checksum(text):
            return text
    text = _inline(svg_file(drawing), drawing)
    if path is not None:
        with atomic_path(path) as partial:
            partial.write_text(f"{_checksum(text)}\n{text}", encoding="utf-8")
    return text


def svg_file(drawing: Drawing, background: str = "none") -> str:
    """The figure as an SVG file of its own, without date or version, on a background such as `white`."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": drawing.kind.name}):
        made = drawing.draw(drawing.data)
        made.savefig(buffer, format="svg", facecolor=background, metadata={"Date": None, "Creator": None})
    return re.sub(r"\s*<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)


def _inline(text: str, drawing: Drawing) -> str:
    body = text[text.index("<svg") :]
    tag, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', tag)
    assert box is not None, "matplotlib writes a viewBox"
    # Identifiers hold in the whole page: those of one figure carry its name.
    rest = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{drawing.kind.name}-", rest)
    for colour, role in _ROLES.items():
        rest = rest.replace(colour, role)
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" aria-label="{escape(drawing.alt)}">'
    return head + re.sub(r"\n\s*", "\n", rest)


def _checksum(text: str) -> str:
    """The first line of a figure that is kept, without which it is drawn again."""
    return f"<!-- SHA-256 {hashlib.sha256(text.encode()).hexdigest()} -->"


def _content(drawing: Drawing) -> str:
    """The hash of all that the picture depends on."""
    code = (Path(inspect.getfile(to_svg)), Path(inspect.getfile(drawing.draw)))
    parts = [drawing.data.to_csv(index=False), drawing.alt, importlib.metadata.version("matplotlib")]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in code:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]
