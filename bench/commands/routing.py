"""`python -m bench routing`: what the routers of a trained DyDiT learned."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "show what routing learned: widths by timestep and layer, tokens over sampled images, work by class"
OUT = Path("results/local/routing")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="file or published name, such as dydit-xl-2-lambda-0.5"
    )
    parser.add_argument("--images", type=int, default=200, metavar="N", help="sampled for token maps (default 200)")
    parser.add_argument("--model", metavar="NAME", help="such as DyDiT-XL/2, for files that do not name their model")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="of a named model (default 256)")
    parser.add_argument("--weights", default="ema", help="of a training checkpoint: ema (default) or model")
    parser.add_argument("--sampler", default="ddpm", help="ddpm (default), ddim or dpm-solver++")
    parser.add_argument("--steps", type=int, default=250, help="of the sampler (default 250)")
    parser.add_argument("--scale", type=float, default=1.5, help="of guidance (default 1.5); 1 is none")
    parser.add_argument("--seed", type=int, default=0, help="of labels and noise (default 0)")
    parser.add_argument("--unit", type=int, metavar="N", help="images per batch (default 64); decides rounding")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1); decides rounding")
    parser.add_argument(
        "--vae", metavar="PATH", help="for latents: sd-vae-ft-ema (default), sd-vae-ft-mse, or a directory"
    )


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench import generate, routing_study

    values = {name: value for name, value in vars(options).items() if name != "run"}
    routing_study.run(generate.Options(**values))
    print((options.out / "findings.md").read_text(encoding="utf-8"), end="")
