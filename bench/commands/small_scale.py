"""`python -m bench small-scale`: a study's models, trained from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from dydit.errors import InputError

HELP = "train a study from nothing: the digits (minutes on a CPU), or CIFAR-10 (needs a GPU and the data set)"
OUT = Path("results/local/small-scale")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--dataset", default="digits", metavar="NAME", help="digits or cifar10")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="files of the data set, where it is not fetched")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--shorten", type=int, default=1, metavar="N", help="divide every step count, for a trial")


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench import results, small_scale, studies

    if options.shorten < 1:
        raise InputError(f"--shorten {options.shorten}: give a whole number from 1")
    study, out = studies.find(options.dataset), results.prepare_output(options.out)
    small_scale.train_all(study, out, options.shorten, device=options.device, data_root=options.data_root)
    print(f"trained files in {out}; {_next(study.name, study.extractor, out)}")


def _next(name: str, extractor: str, out: Path) -> str:
    if name == "digits":
        return f"judge them with: python -m bench reproduce --checkpoints {out}"
    return (
        f"draw from one with: python -m bench generate --checkpoint {out}/dydit-0.5.safetensors --images 50000 "
        f"--out SAMPLES\nand score it with: python -m bench quality --samples SAMPLES --reference {name} "
        f"--extractor {extractor}"
    )
