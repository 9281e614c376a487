"""Methods at the size of a published network, with random weights: what each executes and takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.comparison.entries import AT_SCALE, DYDIT, STATIC, Entry, parse_entries
from bench.comparison.job import ComparisonOptions
from bench.comparison.timing import Timings
from bench.latency.cases import random_network, static_twin, synthetic_masks
from bench.machine import DTYPES
from bench.models import Candidate, OwnShape, check_same_images, load_candidate
from bench.records import environment_record
from dydit import DiT, DyDiT, model_config
from dydit.baselines import Method, apply_method, changed_config, is_change

PROFILE = "even"
UNSCORED = (
    "Random weights, and masks drawn to meet the printed FLOPs: work and time alone. Quality is not run, since it "
    "needs trained weights of every network; `python -m bench reproduce --claim ID` names those of a printed number."
)


@dataclass(frozen=True)
class ScaleJob:
    """What is compared: entries and their networks by name, on the device of `timings`, and the record of the run."""

    entries: Sequence[Entry]
    built: dict[str, Candidate]
    timings: Timings
    record: dict[str, Any]


def prepare_at_scale(options: ComparisonOptions) -> ScaleJob:
    """Check everything, and draw the weights.

    Raises:
        InputError: an unknown network, a method that does not fit it, or a factory whose network draws other images.
    """
    assert options.network is not None
    name = options.network
    config = model_config(name, options.resolution)
    entries = parse_entries(options.methods or AT_SCALE, options.model, config, options.steps, trained=False)
    seed = options.seeds[0]
    timings = Timings(options.batch, options.seconds, seed, torch.device(options.device), DTYPES[options.dtype])
    record = environment_record(
        methods=[entry.name for entry in entries], network=name, resolution=options.resolution, seed=seed,
        weights="random", routing=f"synthetic, {PROFILE}",
    )  # fmt: skip
    return ScaleJob(entries, _networks(name, options.resolution, entries, timings), timings, record)


def _networks(name: str, resolution: int, entries: Sequence[Entry], timings: Timings) -> dict[str, Candidate]:
    """Every entry's network under its method; static networks and DyDiT share their weights."""
    config = model_config(name, resolution)
    where = (timings.device, timings.dtype, timings.seed)
    dynamic = random_network(DyDiT, config, *where)
    static = static_twin(dynamic)
    changed: dict[str, DiT] = {}
    built: dict[str, Candidate] = {}
    for entry in entries:
        if entry.own:
            built[entry.name] = load_candidate(entry.network)
            built[entry.name].to(timings.device, timings.dtype)
            check_same_images([built[STATIC], built[entry.name]])
            continue
        if entry.network.startswith(DYDIT):
            target = float(entry.network.partition(":")[2])
            _, routing = synthetic_masks(name, config, target, PROFILE, 2 * timings.batch, timings.seed)
            method = apply_method(dynamic, entry.method, routing)
        elif is_change(entry.network):
            if entry.network not in changed:
                changed[entry.network] = random_network(DiT, changed_config(config, entry.network), *where)
            method = apply_method(changed[entry.network], entry.method)
        else:
            method = apply_method(static, entry.method)
        built[entry.name] = _candidate(entry, method)
    return built


def _candidate(entry: Entry, method: Method) -> Candidate:
    """Without the call that tries a stranger's module: given masks take batches of one size alone."""
    config = method.network.config
    return Candidate(
        entry.name, method, OwnShape(config.in_channels, config.input_size, config.num_classes, config.learn_sigma)
    )
