"""`python -m bench latents`: a data set through the autoencoder once, for fine-tuning at 256 or 512 pixels."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "encode a data set into latents once, for `finetune`; resumes where it was stopped"
OUT = Path("results/local/latents")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data", required=True, metavar="NAME|PATH", help="data set, or folder with one folder a class"
    )
    parser.add_argument("--split", metavar="NAME", help="of a data set (default: its first, for training)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="files of the data set, where it is not fetched")
    parser.add_argument("--resolution", type=int, default=256, metavar="PIXELS", help="of the images (default 256)")
    parser.add_argument(
        "--vae", metavar="PATH", help="sd-vae-ft-ema (default), sd-vae-ft-mse, or a directory in diffusers' layout"
    )
    parser.add_argument("--unit", type=int, default=1024, metavar="N", help="images per file (default 1024)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1); decides rounding")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench.training import latents

    made = latents.encode_latents(
        options.data,
        options.out,
        resolution=options.resolution,
        vae=options.vae,
        data_root=options.data_root,
        split=options.split,
        device=options.device,
        unit=options.unit,
        threads=options.threads,
    )
    print(
        f"{len(made)} latents in {options.out}; train with: python -m bench finetune --data {options.out} --from FILE"
    )
