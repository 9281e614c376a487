"""What one network pass of one image costs when an engine runs it, and how that is known."""

from __future__ import annotations

from typing import NamedTuple

from bench.claims import paper_tables
from bench.flops.checkpoint_macs import measure_checkpoint
from bench.options import WeightsOptions
from dydit import DiTConfig, macs
from dydit.flops import target_macs


class PassMacs(NamedTuple):
    """Multiply-adds that are executed, counted as matrix products and convolution, and how they are known."""

    macs: float
    basis: str


def full_pass(config: DiTConfig, dynamic: bool) -> PassMacs:
    """Of an engine that skips nothing: the static one, or a masked forward, with its routers."""
    return PassMacs(macs(config, dynamic=dynamic).total(), "closed form, nothing skipped")


def checkpoint_pass(checkpoint: str, options: WeightsOptions, steps: int, device: str) -> PassMacs:
    """Of the engine that skips what the masks of a checkpoint close, averaged over one image sampled in `steps`."""
    counted = measure_checkpoint(
        checkpoint,
        options.model,
        resolution=options.resolution,
        weights=options.weights,
        steps=steps,
        images=1,
        device=device,
    )
    return PassMacs(counted.macs.total(), f"the checkpoint's masks, one guided image, DDPM steps: {steps}")


def target_pass(name: str | None, config: DiTConfig, target: float) -> PassMacs:
    """Of the engine that skips, where the weights are not here: blocks at the ratio that is printed, or at lambda."""
    if name is None:
        return PassMacs(target_macs(config, target), f"closed form at lambda {target}")
    row = paper_tables.published_speeds(name, config, [target])[0]
    basis = f"closed form, blocks at {row.block_ratio:.3g} ({row.source})"
    return PassMacs(target_macs(config, row.block_ratio), basis)
