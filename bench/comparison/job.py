"""A comparison before its first measurement: options, entries and trained networks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.comparison.entries import DEFAULTS, Entry, parse_entries
from bench.comparison.sampled import build
from bench.comparison.stages import NETWORK, methods_study, take_shipped
from bench.machine import DTYPES, check_device
from bench.options import (
    BATCH,
    PIXELS,
    SAMPLER_STEPS,
    SECONDS,
    STEPS,
    THREADS,
    DeviceOptions,
    DtypeOptions,
    OutputOptions,
    Range,
    option,
)
from bench.records import Results, environment_record
from bench.studies.catalogue import SEEDS, Study
from bench.studies.run import default_processes, take_study
from bench.studies.train import train_all
from dydit import InputError

_OF_DIGITS = ("images", "models", "shorten", "processes")
_OF_NETWORKS = ("resolution", "device", "dtype", "threads")
"""Options that are of no use in the other case."""
DRAWN = Range(10, 100_000)
"""Images of a method and seed: the Inception Score is a mean over ten parts of them."""


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(DtypeOptions, DeviceOptions, OutputOptions):
    """What to compare, on the digits or at the size of a named network, and how long.

    Raises:
        InputError: seeds that stand twice, or an option of the digits with a network, or the other way round.
    """

    out: Path = Path("results/local/methods")
    methods: Sequence[str] | None = option(
        None,
        metavar="NETWORK,METHOD@SAMPLER:STEPS",
        help="what to compare; `static` is always there (default: one of each family)",
    )
    network: str | None = option(
        None,
        metavar="NAME",
        help="such as DiT-XL/2, with random weights: work and time alone, nothing is trained or scored",
    )
    resolution: int = option(256, metavar="PIXELS", help="of the network's images", within=PIXELS)
    threads: int | None = option(
        None, metavar="N", help="CPU threads of the network (default: all; digits take 1)", within=THREADS
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
        if self.network is None:
            self.refuse(_OF_NETWORKS, "it needs --network NAME")
        else:
            self.refuse(_OF_DIGITS, f"it is for the digits, not for --network {self.network}")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        check_device(self.device, DTYPES[self.dtype])


@dataclass(frozen=True)
class Comparison:
    """What is compared, with every network trained: `trained` were, and the others were there."""

    entries: Sequence[Entry]
    study: Study
    results: Results
    models: Path
    processes: int
    trained: int
    record: dict[str, Any]


@contextlib.contextmanager
def prepared_comparison(options: ComparisonOptions) -> Iterator[Comparison]:
    """Check everything, take the directories, and train what is missing.

    Raises:
        InputError: a method or network that does not fit, before any training; a directory that cannot be written, or
            that another run has taken.
    """
    entries = parse_entries(options.methods or DEFAULTS, options.model, NETWORK, options.steps)
    models = options.models or options.out / "models"
    with take_study(options.out, models) as results:
        record = environment_record(methods=[entry.name for entry in entries], seeds=list(options.seeds))
        study = methods_study(entries, options.seeds).shortened(options.shorten)
        processes = options.processes or default_processes("cpu")
        take_shipped(study, models)
        for entry in entries:
            if entry.own:
                build(entry, 0, models)  # refuses what does not fit
        trained = train_all(study, models, processes=processes)
        yield Comparison(entries, study, results, models, processes, trained, record)
