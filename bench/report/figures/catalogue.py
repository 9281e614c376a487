"""Every figure that a page can show, in its order: what makes it of the runs, and the command that makes its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.report.figures import learned, published, speed
from bench.report.figures.drawing import Drawing, Kind, to_svg
from bench.report.runs import Run, guarded

KINDS: tuple[tuple[Kind, Callable[[Sequence[Run]], Drawing | None]], ...] = (
    (speed.SPEEDUP, speed.speedup_front),
    (published.FLOPS, published.flops_front),
    (published.TIME, published.time_front),
    (speed.LAMBDA, speed.time_by_lambda),
    (speed.GROWTH, speed.growth),
    (speed.PARTS, speed.parts),
    (speed.SCORES, speed.scores),
    (learned.WIDTHS, learned.widths),
    (learned.METHODS, learned.methods),
    (learned.TRAINING, learned.training),
)
PICTURES = {
    "routing_tokens": ("Token maps", learned.WIDTHS.command),
    "pairs": (
        "Sample grids, static beside dynamic",
        "python -m bench quality --samples DYNAMIC --paired STATIC --out DIR",
    ),
}
"""Pictures that a complete page has, by file name: the title, and the command that makes them."""


def draw_all(
    runs: Sequence[Run], problems: list[str], cache: Path | None = None
) -> tuple[list[tuple[Drawing, str]], list[tuple[str, str]]]:
    """The figures that the runs have data for, each with its SVG, and (title, command) of those that they lack.

    Args:
        runs: whose tables are drawn.
        problems: gets a sentence for every figure whose tables hold something unexpected.
        cache: see `bench.report.figures.drawing.to_svg`.
    """
    found, missing = [], []
    for kind, make in KINDS:
        drawing = guarded(partial(make, runs), problems, None, kind.title)
        svg = None if drawing is None else guarded(partial(to_svg, drawing, cache), problems, None, kind.title)
        if svg is None:
            missing.append((kind.title, kind.command))
        else:
            found.append((drawing, svg))
    names = {path.stem for run in runs for path in run.pictures}
    missing += [words for name, words in PICTURES.items() if name not in names]
    return found, missing
