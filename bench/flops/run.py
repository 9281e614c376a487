"""The whole of `bench flops`: count, measure a checkpoint's masks where one is given, write the tables, and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.claims import write_summary
from bench.claims.verdict import SummaryRow
from bench.flops.checkpoint_macs import CheckpointMacs, measure_checkpoint
from bench.flops.measure import count_and_judge
from bench.options import OutputOptions, StrictOptions, WeightsOptions, option
from bench.records import environment_record, prepare_output, write_run
from dydit import InputError


@dataclass(frozen=True, kw_only=True)
class FlopsOptions(StrictOptions, WeightsOptions, OutputOptions):
    """What to count, and a checkpoint whose masks are measured, too."""

    models: Sequence[str] | None = option(None, metavar="NAME", help="such as DiT-XL/2; all by default")
    lambdas: Sequence[float] | None = option(None, metavar="L", help="FLOPs targets; the paper's by default")
    checkpoint: str | None = option(None, metavar="FILE", help="trained DyDiT, whose own masks are counted, too")
    images: int = option(8, help="images sampled with --checkpoint")
    steps: int = option(250, help="DDPM steps with --checkpoint")


def measure_flops(options: FlopsOptions) -> list[SummaryRow]:
    """Count, write the tables of `count_and_judge`, summary.csv and run.json to `options.out`, and return the verdicts.

    Raises:
        InputError: an unknown model, a lambda outside (0, 1], or a checkpoint that cannot be measured; before any table
            is written.
    """
    directory = prepare_output(options.out)
    record = environment_record()
    rows = count_and_judge(directory, models=options.models, lambdas=options.lambdas, checkpoints=_checkpoints(options))
    write_summary(rows, directory)
    write_run(record, directory)
    return rows


def _checkpoints(options: FlopsOptions) -> list[CheckpointMacs]:
    """What the masks of the checkpoint leave, where one is given."""
    if options.checkpoint is None:
        return []
    models, lambdas = options.models or (), options.lambdas or ()
    if len(models) > 1 or len(lambdas) > 1:
        raise InputError(
            "--checkpoint: it is one network of one lambda; leave the others out of --models and --lambdas"
        )
    if models and options.model not in (None, models[0]):
        raise InputError(f"--model {options.model} and --models {models[0]}: name the checkpoint's network once")
    return [
        measure_checkpoint(
            options.checkpoint,
            options.model or (models[0] if models else None),
            target=lambdas[0] if lambdas else None,
            resolution=options.resolution,
            weights=options.weights,
            images=options.images,
            steps=options.steps,
        )
    ]
