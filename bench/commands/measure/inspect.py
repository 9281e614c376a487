"""`python -m bench inspect FILE`: what a file or folder is, in lines that can be pasted into a bug report."""

from __future__ import annotations

from dataclasses import dataclass

from bench.inspection.inspect_file import inspect
from bench.options import WeightsOptions, option


@dataclass(frozen=True, kw_only=True)
class InspectOptions(WeightsOptions):
    """What to look at."""

    source: str = option(
        positional=True,
        metavar="FILE",
        help="a checkpoint, images, a run of `generate`, reference statistics, or a name of any of these",
    )


OPTIONS = InspectOptions


def run(options: InspectOptions) -> None:
    """Print one fact per line."""
    facts = inspect(options.source, model=options.model, resolution=options.resolution, weights=options.weights)
    for name, value in facts.items():
        print(f"{name}: {value}")
