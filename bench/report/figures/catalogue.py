"""Every figure that a page can show, in its order: what makes it of the runs, and the command that makes its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.report.figures import learned, published, speed
from bench.report.figures.drawing import Drawing, to_svg
from bench.report.runs import Run, guarded


@dataclass(frozen=True)
class Kind:
    """A figure that may or may not be drawn: its title, what makes it, and the command that makes its data."""

    title: str
    make: Callable[[Sequence[Run]], Drawing | None]
    command: str


KINDS = (
    Kind("Speed-up against FLOPs", speed.speedup_front, speed.LATENCY),
    Kind("FLOPs and FID", published.flops_front, "python -m bench reproduce --tier full --data-root DIR"),
    Kind("Time and FID", published.time_front, "python -m bench reproduce --tier full --data-root DIR"),
    Kind("Time by lambda", speed.time_by_lambda, speed.LATENCY),
    Kind("Speed-up by batch and tokens", speed.growth, "python -m bench latency --growth RUN RUN --out DIR"),
    Kind("Where the time goes", speed.parts, "python -m bench latency --profile --out DIR"),
    Kind("Widths by timestep", learned.widths, "python -m bench routing --checkpoint FILE --out DIR"),
    Kind("Quality against work of all methods", learned.methods, "python -m nox -s small_scale"),
    Kind(
        "Training curves", learned.training, "python -m bench finetune --recipe NAME --from FILE --data DIR --out DIR"
    ),
)
PICTURES = {
    "routing_tokens": ("Token maps", "python -m bench routing --checkpoint FILE --out DIR"),
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
    for kind in KINDS:
        drawing = guarded(partial(kind.make, runs), problems, None, kind.title)
        svg = None if drawing is None else guarded(partial(to_svg, drawing, cache), problems, None, kind.title)
        if svg is None:
            missing.append((kind.title, kind.command))
        else:
            found.append((drawing, svg))
    names = {path.stem for run in runs for path in run.pictures}
    missing += [words for name, words in PICTURES.items() if name not in names]
    return found, missing
