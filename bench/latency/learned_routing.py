"""The speed-up that arrives on learned routing: a trained DyDiT's own masks, over its own guided sampling runs.

`bench.latency.measure` draws masks for networks with random weights; here the routers decide, at every step and for
every image, and a whole run is timed: network, routers, guidance and sampler.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.latency.cases import static_twin
from bench.latency.tables import raw_samples, speed_columns
from bench.machine import DTYPES, Budget, Timed, arithmetic_name, in_turns, status
from bench.records import Results, environment_record, file_sha256, portable
from dydit import (
    Diffusion,
    DiT,
    DyDiT,
    InputError,
    Model,
    Observation,
    ObservedSampling,
    generate,
    guidance_branches,
    macs,
)
from dydit.flops import MATMUL
from dydit.inference import Engine, WidthPlan, tuned_products
from dydit.sampling import computing_in

GUIDANCE = 1.5


@dataclass(frozen=True)
class LearnedRun:
    """What to time: whole runs of `steps` DDPM steps of a checkpoint, at some batch sizes (images).

    `model` and `resolution` (pixels) name the network where the file does not; `weights` of a training checkpoint.
    """

    checkpoint: str
    model: str | None
    resolution: int | None
    weights: str
    batch: Sequence[int]
    steps: int
    device: str
    dtype: str
    tf32: bool
    seed: int
    budget: Budget

    def diffusion(self) -> Diffusion:
        """The sampler's steps."""
        return Diffusion.linear().respaced(self.steps)


def measure_learned(run: LearnedRun, results: Results) -> pd.DataFrame:
    """Time static, plain, masked and realised runs in turns, and write latency.csv and run.json.

    `flops_ratio` is what an engine executes, matrix products and convolutions, over what `static` executes: for
    `realised` by the masks of these very runs. Image k has the same label and noise in every engine.

    Raises:
        InputError: a checkpoint that cannot be used or has no routers, or one whose network the engine does not run.
    """
    # Not at the top: a bare machine that times synthetic routing has no safetensors.
    from dydit import checkpoint

    network, found = checkpoint.load_model(
        run.checkpoint, model=run.model, resolution=run.resolution, weights=run.weights
    )
    for note in found.notes:
        status(f"{run.checkpoint}: {note}")
    record = found.record
    if not isinstance(network, DyDiT) or not network.realised:
        raise InputError(
            f"{run.checkpoint}: holds a {type(network).__name__}; `latency --checkpoint` times what a DyDiT learned, "
            "give one whose heads, channel groups and tokens can be skipped"
        )
    facts = environment_record(
        checkpoint={"file": portable(run.checkpoint), "sha256": file_sha256(Path(run.checkpoint))},
        steps=run.steps,
        guidance_scale=GUIDANCE,
        seed=run.seed,
        routing="learned",
    )
    engines = _engines(network, run)
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for batch in run.batch:
        status(f"{Path(run.checkpoint).name}, batch {batch}, {run.steps} steps, {run.device} {run.dtype}")
        ratios = _executed_ratios(network, run, batch)
        for engine in engines.values():
            if isinstance(engine, Engine):
                engine.tune(batch * guidance_branches(GUIDANCE))
        calls = {
            name: functools.partial(_sample, computing_in(DTYPES[run.dtype], engine), network, run, batch)
            for name, engine in engines.items()
        }
        times = in_turns(calls, run.budget, torch.device(run.device), f"batch {batch}")
        rows += [_row(run, record, batch, name, times, ratios[name]) for name in engines]
        samples += raw_samples(batch, times)
        results.write_table(pd.DataFrame(rows), "latency")
        ran_in = {name: engine.ran_in() for name, engine in engines.items() if isinstance(engine, Engine)}
        results.write_record(facts | {"ran_in": ran_in, "tuned": tuned_products(), "samples": samples})
    return pd.DataFrame(rows)


def _engines(network: DyDiT, run: LearnedRun) -> dict[str, Model]:
    """The same weights in four engines, the static ones without the routers."""
    device, dtype = torch.device(run.device), DTYPES[run.dtype]
    dynamic = network.to(device, dtype).eval().requires_grad_(False)
    static = static_twin(dynamic)
    plan = WidthPlan.from_routers(dynamic, run.diffusion().timestep_map.tolist())
    return {"static": Engine(static), "plain": static, "masked": dynamic, "realised": Engine(dynamic, plan)}


@torch.inference_mode()
def _sample(model: Model, network: DiT, run: LearnedRun, batch: int) -> None:
    config = network.config
    shape = (config.in_channels, config.input_size, config.input_size)
    options: dict[str, Any] = {"seed": run.seed, "scale": GUIDANCE, "device": run.device}
    generate(model, run.diffusion(), shape, config.num_classes, range(batch), **options)


def _executed_ratios(network: DyDiT, run: LearnedRun, batch: int) -> dict[str, float]:
    """Executed multiply-adds of each engine over those of the static one, mean over the steps of a run."""
    config, found = network.config, list[float]()
    whole = macs(config).total(MATMUL)

    def add(observed: Observation) -> None:
        found.append(macs(config, observed.routing).total(MATMUL) / whole)

    observed = ObservedSampling(network.route, run.steps, guidance_branches(GUIDANCE), add)
    _sample(computing_in(DTYPES[run.dtype], observed), network, run, batch)
    everything = macs(config, dynamic=True).total(MATMUL) / whole
    return {"static": 1.0, "plain": 1.0, "masked": everything, "realised": sum(found) / len(found)}


def _row(
    run: LearnedRun, record: Mapping[str, str], batch: int, engine: str, times: Mapping[str, Timed], executed: float
) -> dict[str, Any]:
    timed = times[engine]
    return {
        "model": Path(run.checkpoint).stem,
        "lambda": json.loads(record.get("recipe", "{}")).get("target"),
        "batch": batch,
        "device": run.device,
        "dtype": arithmetic_name(run.dtype, run.tf32),
        "engine": engine,
        "profile": "learned" if engine in ("masked", "realised") else "",
        "steps": run.steps,
        **speed_columns(batch, timed, times["static"], executed, times["plain"]),
        "rounds": len(timed.rounds_ms),
    }


SHOWN = ["model", "lambda", "batch", "engine", "ms_median", "speedup", "over_plain", "macs_ratio", "efficiency"]
"""The columns that people are shown."""
