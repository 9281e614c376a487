"""`python -m bench routing`: what the routers of a trained DyDiT learned."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.commands.make import generate

HELP = "show what routing learned: widths by timestep and layer, tokens over sampled images, work by class"
OUT = Path("results/local/routing")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    generate.shared_arguments(parser)
    parser.add_argument("--images", type=int, default=200, metavar="N", help="sampled for token maps (default 200)")


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench.generation.job import GenerationOptions
    from bench.routing.measure import measure_routing

    values = {name: value for name, value in vars(options).items() if name != "run"}
    measure_routing(GenerationOptions(**values))
    print((options.out / "findings.md").read_text(encoding="utf-8"), end="")
