"""What a long run will cost, and what it lacks, before it starts.

Work and disk follow from the options. The rate is measured here, over a few steps of the run's own network, engine and
batch, or stated by the caller. Where the trained weights are not here, random weights stand in, and the routing of a
DyDiT is synthetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.generation.job import GenerationOptions
from bench.machine import DTYPES
from bench.records import write_run, write_table
from bench.reproduction.costs import cost_table, planned_pass, planned_work
from bench.reproduction.network import planned_network
from bench.reproduction.rate import Rate, measure_rate
from bench.reproduction.requirements import (
    Requirement,
    autoencoder_requirement,
    checkpoint_requirement,
    disk_requirement,
    memory_requirement,
    requirements_table,
    run_requirements,
)
from bench.reproduction.scoring import check_scoring
from dydit import InputError


@dataclass(frozen=True)
class Scoring:
    """How the images will be scored: the options of `bench quality`; without a reference they will not be."""

    reference: str | None = None
    extractor: str = "inception-v3-compat"
    weights: Path | None = None
    weights_sha256: str | None = None
    data_root: Path | None = None


@dataclass(frozen=True)
class RunPlan:
    """The costs (quantity, value, unit, basis), everything that the run needs, and what the rate was measured by."""

    costs: pd.DataFrame
    needs: list[Requirement]
    rate: Rate

    @property
    def missing(self) -> list[Requirement]:
        """What is not there."""
        return [need for need in self.needs if not need.present]


def make_plan(
    values: dict[str, Any],
    scoring: Scoring,
    *,
    devices: Sequence[int] = (1, 8, 64),
    rate: float | None = None,
    target: float | None = None,
) -> RunPlan:
    """Plan a run of `bench generate` and its scoring.

    Args:
        values: the run, as the arguments of `GenerationOptions`.
        scoring: what is done with the images afterwards.
        devices: numbers of GPUs (or processes) whose time is wanted.
        rate: images per second of one device, stated instead of measured; the run's device need not be here then.
        target: lambda of a DyDiT whose weights are not here and whose name does not say it.

    Raises:
        InputError: anything that would stop the run or its scoring, other than a missing file.
    """
    options = _run_options(values, devices, rate)
    source = checkpoint_requirement(options.checkpoint)
    network = planned_network(options, source, target)
    if scoring.reference is not None:
        check_scoring(network, scoring.reference, scoring.extractor)
    work = planned_work(options, network, DTYPES[values["dtype"]])
    vae = network.autoencoder(options.vae)
    autoencoder = autoencoder_requirement(vae) if vae is not None else None
    decodes = autoencoder is None or autoencoder.present
    trained = rate is None and source.present and decodes
    if network.engine == "realised" and network.target is None and not trained:
        raise InputError(f"{options.checkpoint}: the FLOPs target of its masks is not known; give --lambda")
    needs = run_requirements(
        options.checkpoint,
        vae=vae,
        reference=scoring.reference,
        extractor=scoring.extractor if scoring.reference is not None else None,
        weights=scoring.weights,
        weights_sha256=scoring.weights_sha256,
        data_root=scoring.data_root,
    )
    needs.append(disk_requirement(options.out, work.disk))
    if rate is None:
        needs.append(memory_requirement(torch.device(options.device), work.memory))
    decoder = autoencoder.where if autoencoder is not None and decodes else None
    here = dataclasses.replace(options, checkpoint=source.where, vae=decoder)
    known = Rate(rate, "stated", {}) if rate is not None else measure_rate(here, network, trained)
    return RunPlan(cost_table(work, planned_pass(here, network, trained), known, devices), needs, known)


def write_plan(plan: RunPlan, record: dict[str, Any], directory: Path) -> None:
    """Write plan.csv, requirements.csv, their markdown twins, and run.json."""
    write_table(plan.costs, directory, "plan")
    write_table(requirements_table(plan.needs), directory, "requirements")
    write_run(record | {"rounds_ms": plan.rate.rounds_ms}, directory)


def _run_options(values: dict[str, Any], devices: Sequence[int], rate: float | None) -> GenerationOptions:
    """The run, its values checked; a stated rate plans for another machine, whose device need not be here."""
    if not devices or min(devices) < 1:
        raise InputError(f"gpus {list(devices)}: give whole numbers from 1")
    if rate is not None and not 0.0 < rate < float("inf"):
        raise InputError(f"rate {rate}: give images a second of one device, above 0")
    if values["dtype"] not in DTYPES:
        raise InputError(f"dtype {values['dtype']!r}: choose one of {', '.join(DTYPES)}")
    elsewhere = {} if rate is None else {"device": "cpu", "dtype": "fp32", "tf32": False}
    return GenerationOptions(**(values | elsewhere))
