"""What the masks of a trained DyDiT claim: mean MACs over a guided sampling run."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.machine import status, track
from dydit import (
    VAE_DOWNSAMPLING,
    Diffusion,
    DiTConfig,
    DyDiT,
    InputError,
    Macs,
    Observation,
    ObservedSampling,
    check_lambda,
    checkpoint,
    draw_in_batches,
    flops_ratio,
    generate,
    guidance_branches,
    macs,
)
from dydit.sampling import Track

GUIDANCE = 1.5
"""Scale of the headline rows; both branches of every step are counted."""


@dataclass(frozen=True)
class CheckpointMacs:
    """Mean over images, steps and guidance branches of what the masks claim.

    `macs` are those of one image and branch; `ratio` is the share of the blocks' MACs that the masks leave, and
    `ratio_by_step` its course from the first (noisiest) step to the last.
    """

    model: str
    resolution: int
    config: DiTConfig
    target: float | None
    source: str
    steps: int
    images: int
    seed: int
    macs: Macs
    ratio: float
    ratio_by_step: tuple[float, ...]

    @property
    def evidence(self) -> str:
        return f"{self.source}: {self.images} images, {self.steps} DDPM steps, guidance {GUIDANCE}, seed {self.seed}"


def measure_checkpoint(
    source: str | Path,
    model: str | None = None,
    *,
    target: float | None = None,
    resolution: int | None = None,
    weights: str = "ema",
    steps: int = 250,
    images: int = 8,
    seed: int = 0,
    batch_size: int = 8,
    device: str = "cpu",
) -> CheckpointMacs:
    """Load a trained DyDiT and average what its masks claim over a guided DDPM run.

    Args:
        source: a checkpoint file, or a name of `dydit.checkpoint.PUBLISHED`.
        model: name of the network, such as `DyDiT-XL/2`, for files that do not tell it and for published rows.
        target: the lambda that it was trained for, which names the published row to compare with; None: what the
            file's record says, if anything.
        resolution: side of the images in pixels, likewise.
        weights: `ema` or `model`, of a training checkpoint.
        steps: sampling steps of at most 1000.
        images: how many; each is a function of (seed, index).
        seed: of labels and noise.
        batch_size: images per pass; changes speed and memory only.
        device: where to sample.

    Raises:
        InputError: no such model, a checkpoint that does not fit it or has no routers, or a number out of range.
    """
    if model is not None and not model.startswith("DyDiT"):
        raise InputError(f"{model}: a static model has no masks; choose a DyDiT")
    if target is not None:
        check_lambda(target)
    for field, number in (("images", images), ("batch_size", batch_size)):
        if number < 1:
            raise InputError(f"{field} = {number}; it must be at least 1")
    diffusion = Diffusion.linear().respaced(steps)
    network, found = checkpoint.load_model(source, model=model, resolution=resolution, weights=weights)
    if not isinstance(network, DyDiT):
        raise InputError(f"{source}: a static DiT, it holds no routers; give a trained DyDiT checkpoint")
    for note in found.notes:
        status(f"{source}: {note}")
    config = network.config
    per_step = _mean_by_step(network.to(device), diffusion, images, seed, batch_size, device)
    return CheckpointMacs(
        model=model or type(network).__name__,
        resolution=resolution or config.input_size * VAE_DOWNSAMPLING,
        config=config,
        target=json.loads(found.record.get("recipe", "{}")).get("target") if target is None else target,
        source=Path(source).name,
        steps=steps,
        images=images,
        seed=seed,
        macs=_mean([step for step, _ in per_step]),
        ratio=statistics.fmean(ratio for _, ratio in per_step),
        ratio_by_step=tuple(ratio for _, ratio in per_step),
    )


def measure_released() -> list[CheckpointMacs]:
    """What the masks of the authors' released checkpoints claim over a whole sampling run; meant for a GPU.

    Raises:
        InputError: a checkpoint is neither in the hub's cache nor to be had.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [
        measure_checkpoint(name, "DyDiT-XL/2", target=float(name.rsplit("-", 1)[1]), device=device)
        for name in checkpoint.PUBLISHED
    ]


def _mean_by_step(
    network: DyDiT, diffusion: Diffusion, images: int, seed: int, batch_size: int, device: str
) -> list[tuple[Macs, float]]:
    """Claimed MACs and block ratio at every step taken, mean over images and guidance branches."""
    config, steps = network.config, len(diffusion)
    by_step: list[list[tuple[float, Macs, float]]] = [[] for _ in range(steps)]  # share of the images, their means

    def add(observed: Observation) -> None:
        routing = observed.routing
        share = len(observed.indices) / images
        by_step[observed.step].append((share, macs(config, routing), flops_ratio(routing, config).mean().item()))

    model = ObservedSampling(network.route, steps, guidance_branches(GUIDANCE), add)

    def draw_batch(indices: range, steps: Track) -> tuple[Tensor, Tensor]:
        shape = (config.in_channels, config.input_size, config.input_size)
        return generate(
            model, diffusion, shape, config.num_classes, indices, seed=seed, scale=GUIDANCE, device=device, track=steps
        )

    label = f"sampling {images} images"
    for _ in draw_in_batches(draw_batch, images, batch_size, steps, lambda steps: track(steps, label)):
        pass  # the images are drawn for their masks alone
    means = []
    for batches in by_step:
        shares = [share for share, _, _ in batches]
        ratio = sum(share * ratio for share, _, ratio in batches)
        means.append((_mean([part for _, part, _ in batches], shares), ratio))
    return means


def _mean(parts: list[Macs], weights: list[float] | None = None) -> Macs:
    weights = weights or [1 / len(parts)] * len(parts)
    return Macs(
        **{
            field.name: sum(weight * getattr(part, field.name) for part, weight in zip(parts, weights, strict=True))
            for field in dataclasses.fields(Macs)
        }
    )
