"""`python -m bench generate`: guided images of a checkpoint, by one process or by many under torchrun."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "draw guided images from a checkpoint: one process, or many under torchrun; resumes where it was stopped"
OUT = Path("results/local/samples")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    shared_arguments(parser)
    parser.add_argument("--images", type=int, required=True, metavar="N", help="how many; the paper's rows use 50000")
    parser.add_argument("--engine", help="realised (default of a DyDiT), masked, or static (default of a DiT)")
    parser.add_argument("--dtype", default="fp32", help="of the network: fp32 or bf16")
    parser.add_argument("--tf32", action="store_true", help="TF32 products on a GPU, as the paper's protocol has them")
    parser.add_argument("--png", action="store_true", help="also write png/INDEX.png")


def shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of every command that samples a checkpoint."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="file or published name, such as dydit-xl-2-lambda-0.5"
    )
    parser.add_argument("--model", metavar="NAME", help="such as DyDiT-XL/2, for files that do not name their model")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="of a named model (default 256)")
    parser.add_argument("--weights", default="ema", help="of a training checkpoint: ema (default) or model")
    parser.add_argument("--sampler", default="ddpm", help="ddpm (default), ddim or dpm-solver++")
    parser.add_argument("--steps", type=int, default=250, help="of the sampler (default 250)")
    parser.add_argument("--scale", type=float, default=1.5, help="of guidance (default 1.5); 1 is none")
    parser.add_argument("--seed", type=int, default=0, help="of labels and noise (default 0)")
    parser.add_argument(
        "--unit", type=int, metavar="N", help="images per batch and file (default 64); decides rounding, as the device"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process (default 1); decides rounding")
    parser.add_argument(
        "--vae", metavar="PATH", help="for latents: sd-vae-ft-ema (default), sd-vae-ft-mse, or a directory"
    )


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench.generation.generate import generate_images
    from bench.generation.job import GenerationOptions

    values = {name: value for name, value in vars(options).items() if name != "run"}
    path = generate_images(GenerationOptions(**values))
    if path is not None:
        print(f"{options.images} images in {path}; the first of them in {path.with_name('preview.png')}")
