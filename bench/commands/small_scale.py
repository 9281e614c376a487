"""`python -m bench small-scale`: the digits study, trained from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from dydit.errors import InputError

HELP = "train the digits study from nothing"
OUT = Path("results/local/small-scale")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--shorten", type=int, default=1, metavar="N", help="divide every step count, for a trial")


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench import results, small_scale

    if options.shorten < 1:
        raise InputError(f"--shorten {options.shorten}: give a whole number from 1")
    small_scale.train_all(results.prepare_output(options.out), options.shorten)
    print(f"trained files in {options.out}; judge them with: python -m bench reproduce --checkpoints {options.out}")
