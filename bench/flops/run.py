"""The whole of `bench flops`: count, measure a checkpoint's masks where one is given, write the tables, and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.claims import write_summary
from bench.claims.verdict import SummaryRow
from bench.flops.checkpoint_macs import CheckpointMacs, measure_checkpoint
from bench.flops.executed import candidate_table, count_candidate
from bench.flops.measure import count_and_judge
from bench.models import load_candidate
from bench.options import IMAGES, LAMBDA, SAMPLER_STEPS, OutputOptions, StrictOptions, WeightsOptions, option
from bench.records import environment_record, take_results
from dydit import InputError


@dataclass(frozen=True, kw_only=True)
class FlopsOptions(StrictOptions, WeightsOptions, OutputOptions):
    """What to count, and a checkpoint whose masks are measured, too."""

    models: Sequence[str] | None = option(None, metavar="NAME", help="such as DiT-XL/2; all by default")
    lambdas: Sequence[float] | None = option(
        None, metavar="L", help="FLOPs targets; the paper's by default", within=LAMBDA
    )
    checkpoint: str | None = option(None, metavar="FILE", help="trained DyDiT, whose own masks are counted, too")
    model: str | None = option(
        None,
        metavar="NAME",
        help="such as DyDiT-XL/2, for files that do not name their model; or package.module:factory, a network of "
        "your own, whose executed multiply-adds are counted instead",
    )
    images: int = option(8, help="images sampled with --checkpoint, or of a network of your own", within=IMAGES)
    steps: int = option(250, help="of the sampler with these", within=SAMPLER_STEPS)


def measure_flops(options: FlopsOptions) -> list[SummaryRow]:
    """Count, write the tables of `count_and_judge`, summary.csv and run.json to `options.out`, and return the verdicts.

    Raises:
        InputError: an unknown model, a lambda outside (0, 1], or a checkpoint that cannot be measured; before any table
            is written.
    """
    with take_results(options.out) as results:
        record = environment_record()
        found = _checkpoints(options)
        rows = count_and_judge(results, models=options.models, lambdas=options.lambdas, checkpoints=found)
        write_summary(rows, results)
        results.write_record(record)
    return rows


def measure_candidate(options: FlopsOptions) -> pd.DataFrame:
    """Count a sampling run of the network that `options.model` names; write flops.csv and run.json to `options.out`.

    Raises:
        InputError: options of other counts, a factory or a network that does not fit, or numbers out of range.
    """
    assert options.model is not None, "measure_flops counts the networks of the papers"
    others = ("checkpoint", "models", "lambdas", "resolution", "weights", "strict")
    options.refuse(others, f"--model {options.model} is a network of your own, which is counted alone")
    candidate = load_candidate(options.model)
    with take_results(options.out) as results:
        record = environment_record(model=options.model, source_sha256=candidate.source_sha256())
        counted = count_candidate(candidate, steps=options.steps, images=options.images)
        table = candidate_table(candidate, counted, steps=options.steps, images=options.images)
        results.write_table(table, "flops")
        results.write_record(record)
    return table


def _checkpoints(options: FlopsOptions) -> list[CheckpointMacs]:
    """What the masks of the checkpoint leave, where one is given."""
    if options.checkpoint is None:
        options.refuse(("model", "resolution", "weights", "images", "steps"), "it is for --checkpoint FILE")
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
