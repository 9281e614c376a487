"""`python -m bench flops`: FLOPs and parameters at true scale."""

from __future__ import annotations

import argparse
from pathlib import Path

from dydit import InputError

HELP = "count FLOPs and parameters at true scale, without weights"
OUT = Path("results/local")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--models", nargs="+", metavar="NAME", help="such as DiT-XL/2; all by default")
    parser.add_argument("--lambdas", nargs="+", type=float, metavar="L", help="FLOPs targets; the paper's by default")
    parser.add_argument("--checkpoint", metavar="FILE", help="trained DyDiT of the one model and lambda given")
    parser.add_argument("--images", type=int, default=8, help="images sampled with --checkpoint")
    parser.add_argument("--steps", type=int, default=250, help="DDPM steps with --checkpoint")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 when a verdict is `deviates`")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    from bench.claims.summary import overview, write_summary
    from bench.flops import checkpoint_macs
    from bench.flops.measure import count_and_judge
    from bench.records import environment_record, prepare_output, write_run

    directory = prepare_output(options.out)
    record = environment_record()
    checkpoints = []
    if options.checkpoint is not None:
        if len(options.models or []) != 1 or len(options.lambdas or []) != 1:
            raise InputError("--checkpoint: name its model and lambda, as in --models DyDiT-XL/2 --lambdas 0.5")
        checkpoints.append(
            checkpoint_macs.measure_checkpoint(
                options.checkpoint,
                options.models[0],
                target=options.lambdas[0],
                images=options.images,
                steps=options.steps,
            )
        )
    rows = count_and_judge(directory, models=options.models, lambdas=options.lambdas, checkpoints=checkpoints)
    write_summary(rows, directory)
    write_run(record, directory)
    print(overview(rows))
    return int(options.strict and any(row.verdict == "deviates" for row in rows))
