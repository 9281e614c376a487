"""What a run costs: units, network passes, multiply-adds, time, memory and disk, with the basis of every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from bench.data import shards
from bench.flops.per_pass import PassMacs, checkpoint_pass, full_pass, target_pass
from bench.generation import samplers
from bench.generation.job import GenerationOptions, images_per_unit
from bench.machine import needed_bytes
from bench.reproduction.network import Network
from bench.reproduction.rate import Rate, sample_of
from dydit import guidance_branches
from dydit.flops import GIGA

GIB = 2**30


@dataclass(frozen=True)
class Work:
    """What follows from the options of a run alone.

    Args:
        options: of the run.
        units: how many batches of `unit` images are made; the last is made whole, too.
        unit: images in each.
        passes: network passes of an image, over both branches of guidance.
        disk: bytes that are written.
        memory: bytes that a device holds.
    """

    options: GenerationOptions
    units: int
    unit: int
    passes: int
    disk: int
    memory: int


def planned_work(options: GenerationOptions, network: Network, dtype: torch.dtype) -> Work:
    """The work of a run whose network computes in `dtype`.

    Raises:
        InputError: no such sampler, or a number of steps that it cannot take.
    """
    steps = len(samplers.make_solver(options.sampler, options.steps).timesteps)
    manifest = shards.Manifest(options.images, images_per_unit(options), network.shape, identity={}, record={})
    return Work(
        options,
        manifest.units,
        manifest.unit,
        passes=steps * guidance_branches(options.scale),
        disk=shards.bytes_to_write(manifest, list(range(manifest.units)), png=options.png),
        memory=needed_bytes(network.config, manifest.unit, torch.device(options.device), dtype),
    )


def planned_pass(options: GenerationOptions, network: Network, trained: bool) -> PassMacs:
    """Multiply-adds of one image and network pass that the run's engine executes.

    Args:
        options: of the run, with paths in place of published names.
        network: what it runs; its lambda is known where its weights are not here.
        trained: whether its weights are here, so that their masks can be observed.
    """
    if network.engine != "realised":
        return full_pass(network.config, network.dynamic)
    if trained:
        steps, _ = sample_of(options, network)
        return checkpoint_pass(options.checkpoint, options, steps, options.device)
    assert network.target is not None, "make_plan refuses a run of unknown lambda"
    return target_pass(network.name, network.config, network.target)


def cost_table(work: Work, per_pass: PassMacs, rate: Rate, devices: Sequence[int]) -> pd.DataFrame:
    """Quantity, value, unit and basis; the time for each number of `devices`."""
    options = work.options
    made = work.units * work.unit
    per_image = per_pass.macs * work.passes / GIGA
    branches = guidance_branches(options.scale)
    guidance = "no guidance" if branches == 1 else f"guidance {options.scale} runs both branches"
    whole = "" if made == options.images else f"; the last is made whole, {made} images in all"
    rows: list[tuple[str, float, str, str]] = [
        ("images", options.images, "", f"{work.units} units of {work.unit}{whole}"),
        ("steps", options.steps, "", options.sampler),
        ("network passes of an image", work.passes, "", guidance),
        ("network passes", work.passes * made, "", ""),
        ("multiply-adds of a pass", per_pass.macs / GIGA, "GMAC", per_pass.basis),
        ("multiply-adds of an image", per_image, "GMAC", "without decoding"),
        ("multiply-adds", per_image * made / 1e6, "PMAC", "without decoding"),
        ("rate of one device", rate.images_per_s, "images/s", rate.basis),
    ]
    for count in devices:
        # Devices share whole units: the one with the most sets the time.
        hours = -(-work.units // count) * work.unit / rate.images_per_s / 3600
        rows.append((f"time on {count} device{'s' if count > 1 else ''}", hours, "hours", "generation alone"))
    weights = "weights, their copies, activations of a guided unit; the autoencoder apart"
    rows += [
        ("memory of a device", work.memory / GIB, "GiB", weights),
        ("disk", work.disk / GIB, "GiB", "units and samples.npz" + (", PNG at most" if options.png else "")),
    ]
    return pd.DataFrame(rows, columns=["quantity", "value", "unit", "basis"])
