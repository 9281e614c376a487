"""`python -m bench routing`: what the routers of a trained DyDiT learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.generation.job import GenerationOptions, SamplingOptions
from bench.options import IMAGES, OutputOptions, option
from bench.routing.measure import measure_routing


@dataclass(frozen=True, kw_only=True)
class RoutingOptions(SamplingOptions, OutputOptions):
    """What to observe: the masked forward of a checkpoint in float32."""

    out: Path = Path("results/local/routing")
    images: int = option(200, metavar="N", help="sampled for token maps", within=IMAGES)


OPTIONS = RoutingOptions


def run(options: RoutingOptions) -> None:
    """Study the checkpoint."""
    measure_routing(GenerationOptions.of(options))
    print((options.out / "findings.md").read_text(encoding="utf-8"), end="")
