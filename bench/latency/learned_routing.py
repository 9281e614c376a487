"""The speed-up that arrives on learned routing: a trained DyDiT's own masks, over its own guided sampling runs.

`bench.latency.measure` draws masks for networks with random weights; here the routers decide, at every step and for
every image, and a whole run is timed: network, routers, guidance and sampler.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from bench.latency.cases import static_twin
from bench.latency.whole_runs import Ran, Runs, sample_run, time_runs
from bench.machine import DTYPES, status
from bench.models import is_factory
from bench.records import Results, environment_record, file_sha256, portable
from dydit import Diffusion, DyDiT, InputError, Model, Observation, ObservedSampling, macs
from dydit.flops import MATMUL
from dydit.inference import Engine, WidthPlan
from dydit.sampling import computing_in

STATICS = ("static", "plain")
"""The engines that compute the static model; speed-ups are over the faster one."""


@dataclass(frozen=True)
class LearnedCheckpoint:
    """A trained DyDiT: its file, and which weights of a training checkpoint.

    `model` and `resolution` (pixels) name the network where the file does not.
    """

    file: str
    model: str | None = None
    resolution: int | None = None
    weights: str = "ema"


def named_checkpoint(file: str, models: Sequence[str], resolutions: Sequence[int], weights: str) -> LearnedCheckpoint:
    """The checkpoint that options name: with the network's name, if the file does not name it, and then its pixels.

    Raises:
        InputError: several names or factories, or several resolutions beside a name.
    """
    if len(models) > 1 or any(is_factory(name) for name in models):
        raise InputError(
            f"--checkpoint and --model {' '.join(models)}: one run times one or the other; leave one out, or name the "
            "network of the file"
        )
    if not models:
        return LearnedCheckpoint(file, weights=weights)
    if len(resolutions) != 1:
        raise InputError(f"--resolution {list(resolutions)}: a checkpoint has one; give that of {models[0]}")
    return LearnedCheckpoint(file, models[0], resolutions[0], weights)


def measure_learned(trained: LearnedCheckpoint, runs: Runs, results: Results) -> pd.DataFrame:
    """Time static, plain, masked and realised DDPM runs in turns, and write latency.csv and run.json.

    `flops_ratio` is what an engine executes, matrix products and convolutions, over what `static` executes: for
    `realised` by the masks of these very runs.

    Raises:
        InputError: a checkpoint that cannot be used or has no routers, or one whose network the engine does not run.
    """
    # Not at the top: a bare machine that times synthetic routing has no safetensors.
    from dydit import checkpoint

    network, found = checkpoint.load_model(
        trained.file, model=trained.model, resolution=trained.resolution, weights=trained.weights
    )
    for note in found.notes:
        status(f"{trained.file}: {note}")
    if not isinstance(network, DyDiT) or not network.realised:
        raise InputError(
            f"{trained.file}: holds a {type(network).__name__}; `latency --checkpoint` times what a DyDiT learned, "
            "give one whose heads, channel groups and tokens can be skipped"
        )
    target = json.loads(found.record.get("recipe", "{}")).get("target")

    def describe(batch: int) -> dict[str, Ran]:
        ratios, whole = _executed_ratios(network, runs, batch), macs(network.config).total(MATMUL) * runs.passes(batch)
        name, profile = Path(trained.file).stem, {"masked": "learned", "realised": "learned"}
        return {
            engine: Ran(name, engine, ratio, ratio * whole, target, profile.get(engine, ""))
            for engine, ratio in ratios.items()
        }

    facts = environment_record(
        checkpoint={"file": portable(trained.file), "sha256": file_sha256(Path(trained.file))},
        **runs.facts(),
        routing="learned",
    )
    networks = _engines(network, runs)
    engines = {name: model for name, model in networks.items() if isinstance(model, Engine)}
    models = {name: computing_in(DTYPES[runs.dtype], model) for name, model in networks.items()}
    return time_runs(models, lambda _: network.config, runs, describe, results, facts, STATICS, "plain", engines)


def _engines(network: DyDiT, runs: Runs) -> dict[str, Model]:
    """The same weights in four engines, the static ones without the routers."""
    device, dtype = torch.device(runs.device), DTYPES[runs.dtype]
    dynamic = network.to(device, dtype).eval().requires_grad_(False)
    static = static_twin(dynamic)
    plan = WidthPlan.from_routers(dynamic, Diffusion.linear().respaced(runs.steps).timestep_map.tolist())
    return {"static": Engine(static), "plain": static, "masked": dynamic, "realised": Engine(dynamic, plan)}


def _executed_ratios(network: DyDiT, runs: Runs, batch: int) -> dict[str, float]:
    """Executed multiply-adds of each engine over those of the static one, mean over the steps of a run."""
    config, found = network.config, list[float]()
    whole = macs(config).total(MATMUL)

    def add(observed: Observation) -> None:
        found.append(macs(config, observed.routing).total(MATMUL) / whole)

    observed = ObservedSampling(network.route, runs.steps, runs.branches, add)
    with torch.inference_mode():
        sample_run(computing_in(DTYPES[runs.dtype], observed), config, runs, batch)
    everything = macs(config, dynamic=True).total(MATMUL) / whole
    return {"static": 1.0, "plain": 1.0, "masked": everything, "realised": sum(found) / len(found)}


SHOWN = [
    *("model", "lambda", "batch", "engine", "ms_median", "speedup", "base", "over_plain", "macs_ratio", "efficiency"),
    "matmul_share",
]
"""The columns that people are shown."""
