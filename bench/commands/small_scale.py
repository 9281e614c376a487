"""`python -m bench small-scale`: a study's models, trained from nothing, scored and judged."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dydit.errors import InputError

HELP = "train a study from nothing: the digits (an hour on 2 cores), or CIFAR-10 (needs a GPU and the data set)"
OUT = Path("results/local/small-scale")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--dataset", default="digits", metavar="NAME", help="digits or cifar10")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="files of the data set, where it is not fetched")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--models", type=Path, metavar="DIR", help="of the trained files (default: OUT/models)")
    parser.add_argument(
        "--stages", nargs="+", metavar="NAME", help="only these and what they start from, such as dydit-m-0.5-s1"
    )
    parser.add_argument("--shorten", type=int, default=1, metavar="N", help="divide every step count, for a trial")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="stages trained at once (default: one a core, one on a GPU)"
    )


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench import results, small_scale, studies

    for name in ("shorten", "processes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}; give a whole number from 1")
    study = studies.find(options.dataset)
    if options.stages:
        study = study.only(options.stages)
    out = results.prepare_output(options.out)
    models = results.prepare_output(options.models or out / "models")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = options.processes or (cores if options.device == "cpu" else 1)
    small_scale.train_all(
        study.shortened(options.shorten),
        models,
        processes=processes,
        device=options.device,
        data_root=options.data_root,
    )
    print(f"trained files in {models}; {_next(study.name, study.extractor, models)}")


def _next(name: str, extractor: str, models: Path) -> str:
    if name == "digits":
        return f"judge them with: python -m bench reproduce --checkpoints {models}"
    return (
        f"draw from one with: python -m bench generate --checkpoint {models}/dydit-0.5.safetensors --images 50000 "
        f"--out SAMPLES\nand score it with: python -m bench quality --samples SAMPLES --reference {name} "
        f"--extractor {extractor}"
    )
