"""A comparison before its first measurement: options, entries and trained networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.comparison.entries import DEFAULTS, Entry, parse_entries
from bench.comparison.sampled import build
from bench.comparison.stages import NETWORK, methods_study, take_shipped
from bench.options import BATCH, SAMPLER_STEPS, SECONDS, STEPS, THREADS, OutputOptions, Range, option
from bench.records import environment_record, prepare_output
from bench.studies.catalogue import SEEDS, Study
from bench.studies.run import default_processes
from bench.studies.train import train_all
from dydit import InputError

DRAWN = Range(10, 100_000)
"""Images of a method and seed: the Inception Score is a mean over ten parts of them."""


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(OutputOptions):
    """What to compare on the digits, and how long.

    Raises:
        InputError: seeds that stand twice.
    """

    out: Path = Path("results/local/methods")
    methods: Sequence[str] = option(
        DEFAULTS, metavar="NETWORK,METHOD@SAMPLER:STEPS", help="what to compare; `static` is always there"
    )
    model: Sequence[str] = option(
        (), metavar="NAME", repeated=True, help="package.module:factory, a network of your own that draws digits, too"
    )
    steps: int = option(
        50, metavar="N", help="DDPM steps, where a method does not name its sampler", within=SAMPLER_STEPS
    )
    images: int = option(500, metavar="N", help="drawn from every method and seed", within=DRAWN)
    seeds: Sequence[int] = option(
        SEEDS, metavar="N", help="of trainings, and of labels and noise; of 1 2 3", within=Range(min(SEEDS), max(SEEDS))
    )
    batch: int = option(8, metavar="N", help="images at once in what is timed and counted", within=BATCH)
    seconds: float = option(60.0, help="time to spend on timing", within=SECONDS)
    models: Path | None = option(None, metavar="DIR", help="of the trained files (default: OUT/models)")
    shorten: int = option(1, metavar="N", help="divide every step count of the trainings, for a trial", within=STEPS)
    processes: int | None = option(
        None, metavar="N", help="methods trained and scored at once (default: one per core)", within=THREADS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))}: give some of {' '.join(map(str, SEEDS))}")


@dataclass(frozen=True)
class Comparison:
    """What is compared, with every network trained: `trained` were, and the others were there."""

    entries: Sequence[Entry]
    study: Study
    out: Path
    models: Path
    processes: int
    trained: int
    record: dict[str, Any]


def prepare_comparison(options: ComparisonOptions) -> Comparison:
    """Check everything, and train what is missing.

    Raises:
        InputError: a method or network that does not fit, before any training; a directory that cannot be written.
    """
    entries = parse_entries(options.methods, options.model, NETWORK, options.steps)
    out = prepare_output(options.out)
    models = prepare_output(options.models or out / "models")
    record = environment_record(methods=[entry.name for entry in entries], seeds=list(options.seeds))
    study = methods_study(entries, options.seeds).shortened(options.shorten)
    processes = options.processes or default_processes("cpu")
    take_shipped(study, models)
    for entry in entries:
        if entry.own:
            build(entry, 0, models)  # refuses what does not fit
    trained = train_all(study, models, processes=processes)
    return Comparison(entries, study, out, models, processes, trained, record)
