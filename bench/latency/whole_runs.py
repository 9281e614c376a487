"""Whole guided sampling runs, timed in turns at several batch sizes: of a trained DyDiT, or of networks of anyone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch

from bench.flops.executed import GUIDANCE, sampler_of
from bench.latency.tables import PRODUCT, Beside, fastest, raw_samples, speed_columns
from bench.machine import DTYPES, Budget, Call, arithmetic_name, check_arithmetic, dense_product, in_turns, status
from bench.models import ImageShape, begin_run
from bench.records import Results
from dydit import Diffusion, InputError, generate, guidance_branches
from dydit.inference import Engine, tuned_products


@dataclass(frozen=True)
class Runs:
    """Which runs are timed: of some numbers of images at once and of `steps` steps; where, and for how long.

    Raises:
        InputError: a dtype that has no name here, or what this machine does not have.
    """

    batch: Sequence[int]
    steps: int
    device: str
    dtype: str
    tf32: bool
    seed: int
    budget: Budget

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        check_arithmetic(self.device, DTYPES[self.dtype], self.tf32)

    @property
    def branches(self) -> int:
        """Network passes of an image at a step."""
        return guidance_branches(GUIDANCE)

    def passes(self, batch: int) -> int:
        """Network passes of a run of that many images: of an image, as many as steps and branches of guidance."""
        return batch * self.branches * self.steps

    @property
    def arithmetic(self) -> str:
        """What tables call the dtype of these runs."""
        return arithmetic_name(self.dtype, self.tf32)

    def facts(self) -> dict[str, Any]:
        """What a run's record says of them."""
        return {"steps": self.steps, "guidance_scale": GUIDANCE, "seed": self.seed}


@dataclass(frozen=True)
class Ran:
    """What is known of a network's runs beside their time: its row's columns, and the multiply-adds executed.

    Args:
        model: what the row calls it.
        engine: what computes it.
        executed: its multiply-adds over those of the static, or first, network.
        work: its multiply-adds in one run.
        target: lambda, where it has one.
        profile: where its masks are from.
        others: further columns.
    """

    model: str
    engine: str
    executed: float
    work: float
    target: float | None = None
    profile: str = ""
    others: Mapping[str, Any] = field(default_factory=dict)


def sample_run(model: Any, shape: ImageShape, runs: Runs, batch: int) -> None:
    """One run of `batch` images; image k has the same label and noise in every network."""
    sampler = sampler_of(shape)
    diffusion = Diffusion.linear().respaced(runs.steps, sampler)
    begin_run(model, diffusion.timestep_map.flip(0).tolist())
    size = (shape.in_channels, shape.input_size, shape.input_size)
    options: dict[str, Any] = {"seed": runs.seed, "scale": GUIDANCE, "sampler": sampler, "device": runs.device}
    generate(model, diffusion, size, shape.num_classes, range(batch), **options)


def time_runs(
    models: Mapping[str, Any],
    shape: Callable[[str], ImageShape],
    runs: Runs,
    describe: Callable[[int], Mapping[str, Ran]],
    results: Results,
    facts: Mapping[str, Any],
    statics: Sequence[str],
    plain: str | None = None,
    engines: Mapping[str, Engine] = MappingProxyType({}),
) -> pd.DataFrame:
    """Time every network's runs, and beside them a large dense product; writes latency.csv and run.json.

    Args:
        models: sampling models by name, on their device.
        shape: of a network's images.
        runs: what is timed.
        describe: for a batch size, what is known of each network's runs.
        results: where the tables and the record go, after every batch size.
        facts: for the record.
        statics: the names of networks whose fastest one speed-ups are over.
        plain: name of the network that `over_plain` is over, where there is one.
        engines: those of the suite among the networks, whose kernels are tuned for a batch before it is timed.
    """
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    device = torch.device(runs.device)
    product, product_macs = dense_product(device, DTYPES[runs.dtype])
    for batch in runs.batch:
        status(f"{len(models)} networks, batch {batch}, {runs.steps} steps, {runs.device} {runs.arithmetic}")
        known = describe(batch)
        for engine in engines.values():
            engine.tune(batch * runs.branches)
        calls: dict[str, Call] = {
            name: functools.partial(sample_run, model, shape(name), runs, batch) for name, model in models.items()
        }
        times = in_turns(calls | {PRODUCT: product}, runs.budget, device, f"batch {batch}")
        base = fastest(times, statics)
        beside = Beside(base, times[base], times[PRODUCT], product_macs, times[plain] if plain else None)
        for name, ran in known.items():
            speeds = speed_columns(batch, times[name], beside, ran.executed, ran.work)
            rows.append(_columns(ran, runs, batch) | speeds | dict(ran.others) | {"rounds": len(times[name].rounds_ms)})
        samples += raw_samples(batch, times)
        results.write_table(pd.DataFrame(rows), "latency")
        results.write_record(dict(facts) | _engine_facts(engines) | {"samples": samples})
    return pd.DataFrame(rows)


def _engine_facts(engines: Mapping[str, Engine]) -> dict[str, Any]:
    """What each engine's parts computed in, and the kernels that were chosen; nothing where no engine ran."""
    if not engines:
        return {}
    return {"ran_in": {name: engine.ran_in() for name, engine in engines.items()}, "tuned": tuned_products()}


def _columns(ran: Ran, runs: Runs, batch: int) -> dict[str, Any]:
    return {
        "model": ran.model,
        "lambda": ran.target,
        "batch": batch,
        "device": runs.device,
        "dtype": runs.arithmetic,
        "engine": ran.engine,
        "profile": ran.profile,
        "steps": runs.steps,
    }
