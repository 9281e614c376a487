"""What a long run will cost, and what it lacks, told before it starts.

Work and disk follow from the options. The rate is measured here, over a few steps of the run's own network, engine and
batch, or stated by the caller. Where the trained weights are not here, random weights stand in, and the routing of a
DyDiT is synthetic.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.claims import paper_tables
from bench.data import shards
from bench.data.sets.catalogue import DATASETS
from bench.flops.counts import GIGA
from bench.flops.learned_masks import measure_checkpoint
from bench.generation import decoding, samplers
from bench.generation.job import GenerationOptions
from bench.machine import DTYPES, needed
from bench.quality.features import extractors
from bench.quality.references.manifest import load_manifest
from bench.records import portable, write_run, write_table
from bench.reproduction.rate import Network, Rate, measure_rate, sample_of, unit_of
from bench.reproduction.requirements import (
    Requirement,
    autoencoder_requirement,
    checkpoint_requirement,
    disk_requirement,
    extractor_requirement,
    memory_requirement,
    reference_requirement,
)
from dydit import DyDiT, InputError, check_lambda, checkpoint, macs, model_config
from dydit.flops import MATMUL, target_macs

GIB = 2**30


@dataclass(frozen=True)
class Scoring:
    """How the images will be scored: the options of `bench quality`; without a reference they will not be."""

    reference: str | None = None
    extractor: str = "inception-v3-compat"
    weights: Path | None = None
    weights_sha256: str | None = None
    data_root: Path | None = None


def plan_requirements(
    source: str,
    *,
    vae: str | None = None,
    reference: str | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    weights_sha256: str | None = None,
    data_root: Path | None = None,
) -> list[Requirement]:
    """What a run needs of files, each looked for on this machine alone.

    Args:
        source: the checkpoint, a file or a published name.
        vae: the autoencoder (None: a model of pixels).
        reference: what the images are compared with (None: they are not).
        extractor: name of the feature extractor (None: nothing is scored).
        weights: its file, where that does not lie where the extractor looks.
        weights_sha256: the digest of that file, where it is not the published one.
        data_root: directory of data sets and downloaded files.

    Raises:
        InputError: no such extractor, or no such split of a data set.
    """
    found = [checkpoint_requirement(source)]
    if vae is not None:
        found.append(autoencoder_requirement(vae))
    if extractor is not None:
        found.append(extractor_requirement(extractor, weights, weights_sha256))
    if reference is not None:
        found.append(reference_requirement(reference, data_root))
    return found


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
        values: the run, as the arguments of `generate.Options`.
        scoring: what is done with the images afterwards.
        devices: how many GPUs (or processes) to tell the time for.
        rate: images a second of one device, stated instead of measured; the run's device need not be here then.
        target: lambda of a DyDiT whose weights are not here and whose name does not say it.

    Raises:
        InputError: anything that would stop the run or its scoring, other than a missing file.
    """
    options = _run_options(values, devices, rate)
    sampling = samplers.make_solver(options.sampler, options.steps)
    source = checkpoint_requirement(options.checkpoint)
    network = _network(options, source, target)
    _check_scoring(network, scoring)
    if not network.latent:
        decoding.open_decoder(network.config, options.vae)  # which refuses what a run would refuse
    vae = (options.vae or decoding.DEFAULT_VAE) if network.latent else None
    autoencoder = autoencoder_requirement(vae) if vae is not None else None
    found = plan_requirements(
        options.checkpoint,
        vae=vae,
        reference=scoring.reference,
        extractor=scoring.extractor if scoring.reference is not None else None,
        weights=scoring.weights,
        weights_sha256=scoring.weights_sha256,
        data_root=scoring.data_root,
    )
    decodes = autoencoder is None or autoencoder.present
    given = autoencoder.where if autoencoder is not None and decodes else None
    files = dataclasses.replace(options, checkpoint=source.where, vae=given)
    whole = rate is None and source.present and decodes
    if network.engine == "realised" and network.target is None and not whole:
        raise InputError(f"{options.checkpoint}: the FLOPs target of its masks is not known; give --lambda")
    manifest = _manifest(options, network)
    writes = shards.bytes_to_write(manifest, list(range(manifest.units)), png=options.png)
    holds = needed(network.config, manifest.unit, DTYPES[values["dtype"]])
    found.append(disk_requirement(options.out, writes))
    if rate is None:
        found.append(memory_requirement(torch.device(options.device), holds))
    known = Rate(rate, "stated", {}) if rate is not None else measure_rate(files, network, whole)
    per_pass = _macs(files, network, whole)
    costs = _table(options, network, manifest, len(sampling.timesteps), per_pass, known, devices, writes, holds)
    return RunPlan(costs, found, known)


def write_plan(plan: RunPlan, record: dict[str, Any], directory: Path) -> None:
    """Write plan.csv, requirements.csv, their markdown twins, and run.json."""
    write_table(plan.costs, directory, "plan")
    write_table(requirements_table(plan.needs), directory, "requirements")
    write_run(record | {"rounds_ms": plan.rate.rounds_ms}, directory)


def requirements_table(found: Sequence[Requirement]) -> pd.DataFrame:
    """One row a need; paths as they may be published."""
    rows = [
        {
            "need": portable(need.name),
            "present": "yes" if need.present else "missing",
            "where": portable(need.where),
            "how to get it": "" if need.present else portable(need.remedy),
        }
        for need in found
    ]
    return pd.DataFrame(rows)


def _run_options(values: dict[str, Any], devices: Sequence[int], rate: float | None) -> GenerationOptions:
    """The run, its values checked; a stated rate plans for another machine, whose device is not asked of this one."""
    if not devices or min(devices) < 1:
        raise InputError(f"gpus {list(devices)}: give whole numbers from 1")
    if rate is not None and not 0.0 < rate < float("inf"):
        raise InputError(f"rate {rate}: give images a second of one device, above 0")
    if values["dtype"] not in DTYPES:
        raise InputError(f"dtype {values['dtype']!r}: choose one of {', '.join(DTYPES)}")
    elsewhere = {} if rate is None else {"device": "cpu", "dtype": "fp32", "tf32": False}
    return GenerationOptions(**(values | elsewhere))


def _network(options: GenerationOptions, source: Requirement, target: float | None) -> Network:
    """The run's network by its name, or as its file describes it."""
    if target is not None:
        check_lambda(target)
    if options.model is not None:
        config = model_config(options.model, options.resolution)
        dynamic = options.model.startswith("DyDiT")
        known = float(options.checkpoint.rsplit("-", 1)[1]) if options.checkpoint in checkpoint.PUBLISHED else None
    elif not options.checkpoint.endswith(".safetensors"):
        raise InputError(f"{options.checkpoint}: such files do not name their model; give --model NAME")
    elif not source.present:
        raise InputError(f"{options.checkpoint}: no such file to read the network from; give --model NAME")
    else:
        model, found = checkpoint.load_model(options.checkpoint)
        config, dynamic = model.config, isinstance(model, DyDiT)
        known = json.loads(found.record.get("recipe", "{}")).get("target")
    fitting = ("realised", "masked") if dynamic else ("static",)
    engine = options.engine or fitting[0]
    if engine not in fitting:
        kind = "DyDiT" if dynamic else "DiT"
        raise InputError(f"engine {engine}: the network is a {kind}, which runs as {' or '.join(fitting)}")
    target = target or known
    return Network(options.model, config, dynamic, engine, target)


def _check_scoring(network: Network, scoring: Scoring) -> None:
    """Refuse images that could not be compared with the reference once they are made."""
    if scoring.reference is None:
        return
    spec = extractors.extractor(scoring.extractor)
    side, width, _ = network.shape
    spec.check_size("the run", (side, width))
    entry = load_manifest().get(scoring.reference)
    data = DATASETS.get(scoring.reference.partition("/")[0])
    wanted = entry.resolution if entry is not None else data.resolution if data is not None and data.native else None
    if wanted not in (None, side):
        raise InputError(
            f"reference {scoring.reference}: images of {wanted} pixels, the run makes {side}; "
            "choose the reference of that resolution"
        )
    if entry is not None and data is None and entry.extractor != spec.name:
        raise InputError(
            f"reference {entry.name}: made with {entry.extractor}, the scoring uses {spec.name}; "
            f"give --extractor {entry.extractor}"
        )


def _manifest(options: GenerationOptions, network: Network) -> shards.Manifest:
    return shards.Manifest(options.images, unit_of(options), network.shape, identity={}, record={})


def _macs(options: GenerationOptions, network: Network, weights: bool) -> tuple[float, str]:
    """MACs of one image and network pass that the engine executes, and how they are known."""
    config = network.config
    if network.engine != "realised":
        return macs(config, dynamic=network.dynamic).total(MATMUL), "closed form, nothing skipped"
    if weights:
        steps, _ = sample_of(options, network)
        claimed = measure_checkpoint(options.checkpoint, config, steps=steps, images=1, device=options.device)
        return claimed.macs.total(MATMUL), f"the checkpoint's masks, one guided image, DDPM steps: {steps}"
    assert network.target is not None  # `_network` asks for it
    if network.name is None:
        return target_macs(config, network.target), f"closed form at lambda {network.target}"
    row = paper_tables.published_rows(network.name, config, [network.target])[0]
    return target_macs(config, row.block_ratio), f"closed form, blocks at {row.block_ratio:.3g} ({row.source})"


def _table(
    options: GenerationOptions,
    network: Network,
    manifest: shards.Manifest,
    evaluations: int,
    per_pass: tuple[float, str],
    rate: Rate,
    devices: Sequence[int],
    writes: int,
    holds: int,
) -> pd.DataFrame:
    branches = 1 if options.scale == 1.0 else 2
    passes = evaluations * branches
    made = manifest.units * manifest.unit
    per_image = per_pass[0] * passes / GIGA
    guidance = "no guidance" if branches == 1 else f"guidance {options.scale} runs both branches"
    whole = "" if made == options.images else f"; the last is made whole, {made} images in all"
    rows: list[tuple[str, float, str, str]] = [
        ("images", options.images, "", f"{manifest.units} units of {manifest.unit}{whole}"),
        ("steps", options.steps, "", options.sampler),
        ("network passes of an image", passes, "", guidance),
        ("network passes", passes * made, "", ""),
        ("multiply-adds of a pass", per_pass[0] / GIGA, "GMAC", per_pass[1]),
        ("multiply-adds of an image", per_image, "GMAC", "without decoding"),
        ("multiply-adds", per_image * made / 1e6, "PMAC", "without decoding"),
        ("rate of one device", rate.images_per_s, "images/s", rate.basis),
    ]
    for count in devices:
        # Units are dealt whole: the busiest device sets the time.
        hours = -(-manifest.units // count) * manifest.unit / rate.images_per_s / 3600
        rows.append((f"time on {count} device{'s' if count > 1 else ''}", hours, "hours", "generation alone"))
    weights = "weights, their copies, activations of a guided unit; the autoencoder apart"
    rows += [
        ("memory of a device", holds / GIB, "GiB", weights),
        ("disk", writes / GIB, "GiB", "units and samples.npz" + (", PNG at most" if options.png else "")),
    ]
    return pd.DataFrame(rows, columns=["quantity", "value", "unit", "basis"])
