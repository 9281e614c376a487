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

from bench.generation.job import DrawingOptions, GenerationOptions
from bench.machine import DTYPES
from bench.options import LAMBDA, DataOptions, ExtractorOptions, OutputOptions, Range, option
from bench.records import Results
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


@dataclass(frozen=True, kw_only=True)
class PlanOptions(DrawingOptions, ExtractorOptions, DataOptions, OutputOptions):
    """The run to plan, its scoring as `bench quality` is told it, and for which machine; checked by `generation`."""

    out: Path = Path("results/local/plan")
    samples: Path = option(GenerationOptions.out, metavar="DIR", help="--out of the run")
    target: float | None = option(
        None,
        name="lambda",
        metavar="L",
        help="of a DyDiT whose weights are not here and whose name does not say it",
        within=LAMBDA,
    )
    gpus: Sequence[int] = option(
        (1, 8, 64), metavar="N", help="how many GPUs (or processes) to tell the time for", within=Range(1, 1_000_000)
    )
    rate: float | None = option(
        None,
        metavar="R",
        help="images/s of one device, instead of measuring it here; the device need not be here then",
        within=Range(1e-9, 1e9),
    )
    reference: str | None = option(None, metavar="NAME", help="what the images will be compared with; none by default")
    extractor: str = option("inception-v3-compat", help="of the scoring")
    extractor_weights: Path | None = option(
        None, metavar="FILE", help="of the extractor, if not where it looks for them"
    )
    strict: bool = option(False, help="exit with status 1 when something is missing")

    def generation(self) -> GenerationOptions:
        """The run; a stated rate plans for another machine, whose device is not asked of this one.

        Raises:
            InputError: a value out of range, or one that the run's machine does not have.
        """
        if self.reference is None:
            self.refuse(("extractor", "extractor_weights", "weights_sha256"), "it is for --reference NAME")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        elsewhere = {} if self.rate is None else {"device": "cpu", "dtype": "fp32", "tf32": False}
        return GenerationOptions.of(self, out=self.samples, **elsewhere)


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


def make_plan(plan: PlanOptions) -> RunPlan:
    """Plan a run of `bench generate` and its scoring.

    Raises:
        InputError: anything that would stop the run or its scoring, other than a missing file.
    """
    options = plan.generation()
    source = checkpoint_requirement(options.checkpoint)
    network = planned_network(options, source, plan.target)
    if plan.reference is not None:
        check_scoring(network, plan.reference, plan.extractor)
    work = planned_work(options, network, DTYPES[plan.dtype])
    vae = network.autoencoder(options.vae)
    autoencoder = autoencoder_requirement(vae) if vae is not None else None
    decodes = autoencoder is None or autoencoder.present
    trained = plan.rate is None and source.present and decodes
    if network.engine == "realised" and network.target is None and not trained:
        raise InputError(f"{options.checkpoint}: the FLOPs target of its masks is not known; give --lambda")
    needs = run_requirements(
        options.checkpoint,
        vae=vae,
        reference=plan.reference,
        extractor=plan.extractor if plan.reference is not None else None,
        weights=plan.extractor_weights,
        weights_sha256=plan.weights_sha256,
        data_root=plan.data_root,
    )
    needs.append(disk_requirement(options.out, work.disk))
    if plan.rate is None:
        needs.append(memory_requirement(torch.device(options.device), work.memory))
    decoder = autoencoder.where if autoencoder is not None and decodes else None
    here = dataclasses.replace(options, checkpoint=source.where, vae=decoder)
    known = Rate(plan.rate, "stated", {}) if plan.rate is not None else measure_rate(here, network, trained)
    return RunPlan(cost_table(work, planned_pass(here, network, trained), known, plan.gpus), needs, known)


def write_plan(plan: RunPlan, record: dict[str, Any], results: Results) -> None:
    """Write plan.csv, requirements.csv, their markdown twins, and run.json."""
    results.write_table(plan.costs, "plan")
    results.write_table(requirements_table(plan.needs), "requirements")
    results.write_record(record | {"rounds_ms": plan.rate.rounds_ms})
