"""Runs the width routers at every timestep, and observes the token routers over a guided sampling run."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.generation.job import GenerationJob, GenerationOptions, images_per_unit, prepare_generation
from bench.generation.samplers import guided_samples
from bench.machine import check_fits, status, track
from bench.routing.learned import Bools, Floats, LearnedRouting
from dydit import (
    Diffusion,
    DiTConfig,
    DyDiT,
    InputError,
    Observation,
    ObservedSampling,
    Routing,
    draw_in_batches,
    flops_ratio,
    guidance_branches,
)
from dydit.inference import WidthPlan
from dydit.sampling import Track

SHOWN = 6
"""Images whose own token maps are kept: the first of the run."""
ENGINE = "masked"
"""How the network runs: the routers are read where their masks are applied."""


def prepare_observation(options: GenerationOptions) -> GenerationJob:
    """As `prepare_generation`, for a network whose widths are a function of the timestep.

    Raises:
        InputError: as `prepare_generation`, or a network without such routers.
    """
    job = prepare_generation(dataclasses.replace(options, engine=None))
    network = job.network
    for line in job.labels.remarks(options.checkpoint):
        status(line)
    if not isinstance(network, DyDiT):
        raise InputError(f"{options.checkpoint}: holds a {type(network).__name__}, which routes nothing; give a DyDiT")
    if not network.realised:
        raise InputError(
            f"{options.checkpoint}: holds a {type(network).__name__}, whose masks are not DyDiT's; give a DyDiT"
        )
    check_fits(type(network).__name__, network.config, images_per_unit(options), job.device, torch.float32)
    return dataclasses.replace(job, engine=ENGINE)


def observe(options: GenerationOptions, job: GenerationJob) -> LearnedRouting:
    """Run the width routers at every timestep, and observe the token routers while all images are sampled."""
    assert isinstance(job.network, DyDiT)
    network = job.network.to(job.device)
    heads, channels = open_widths(network)
    sums = TokenSums(network.config, len(job.solver.timesteps), options.images, guidance_branches(options.scale))
    labels, shown = _sample(options, job, sums)
    token_map = sums.token_count.astype(np.float32) / np.float32(options.images)
    return LearnedRouting(
        timesteps=np.array(job.solver.timesteps, dtype=np.int64),
        heads_open=heads,
        channels_open=channels,
        head_rate=heads.mean(-1),
        channel_rate=channels.mean(-1),
        width_ratio=_width_ratio(network, heads, channels),
        token_map=token_map,
        token_rate=sums.token_count.mean((-2, -1)) / options.images,
        branches_differ=sums.differ_count / (options.images * network.config.tokens),
        flops_ratio=sums.step_ratio / options.images,
        labels=labels,
        image_token_rate=sums.image_tokens / len(job.solver.timesteps),
        image_flops_ratio=sums.image_ratio / len(job.solver.timesteps),
        shown_images=shown,
        shown_maps=sums.shown,
    )


def open_widths(network: DyDiT) -> tuple[Bools, Bools]:
    """Which heads and channel groups are open at every timestep, bool (T, L, H) each, from the routers alone."""
    total = len(Diffusion.linear())
    plan = WidthPlan.from_routers(network, range(total))
    heads, channels = zip(*(plan.at(timestep) for timestep in range(total)), strict=True)
    return torch.stack(heads).numpy(), torch.stack(channels).numpy()


def _width_ratio(network: DyDiT, heads: Bools, channels: Bools) -> Floats:
    config = network.config
    tokens = torch.ones(len(heads), config.depth, 1)
    ratio: Floats = flops_ratio(Routing(torch.from_numpy(heads), torch.from_numpy(channels), tokens), config).numpy()
    return ratio


class TokenSums:
    """Adds up what token routers decide over a sampling run; the arrays of `LearnedRouting` are its means."""

    def __init__(self, config: DiTConfig, steps: int, images: int, branches: int) -> None:
        self.config = config
        layers, grid = config.depth, config.grid_size
        self.token_count = np.zeros((branches, steps, layers, grid, grid), dtype=np.int64)
        self.differ_count = np.zeros((steps, layers), dtype=np.int64)
        self.step_ratio = np.zeros((branches, steps))
        self.image_tokens = np.zeros((images, branches))
        self.image_ratio = np.zeros((images, branches))
        self.shown = np.zeros((min(SHOWN, images), branches, steps, layers, grid, grid), dtype=np.bool_)

    def add(self, observed: Observation) -> None:
        """Count one step of a batch."""
        step, indices = observed.step, observed.indices
        branches, grid = len(self.token_count), self.config.grid_size
        is_open = observed.routing.tokens.bool().cpu().numpy()
        is_open = is_open.reshape(branches, len(indices), -1, grid, grid)  # (B, n, L, G, G)
        ratio = flops_ratio(observed.routing, self.config).double().cpu().numpy().reshape(branches, -1)
        rows = slice(indices.start, indices.stop)
        self.token_count[:, step] += is_open.sum(1)
        self.step_ratio[:, step] += ratio.sum(1)
        self.image_tokens[rows] += is_open.mean((2, 3, 4)).T
        self.image_ratio[rows] += ratio.T
        if branches == 2:
            self.differ_count[step] += (is_open[0] != is_open[1]).sum((0, 2, 3))
        kept = range(indices.start, min(indices.stop, len(self.shown)))
        self.shown[kept.start : kept.stop, :, step] = is_open[:, : len(kept)].swapaxes(0, 1)


def _sample(
    options: GenerationOptions, job: GenerationJob, sums: TokenSums
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Labels (N,) of all images and the pixels of the first; the rest are drawn for their masks alone."""
    network, steps = job.network, len(job.solver.timesteps)
    assert isinstance(network, DyDiT)
    model = ObservedSampling(network.route, steps, guidance_branches(options.scale), sums.add)

    def draw_batch(indices: range, steps: Track) -> tuple[Tensor, Tensor]:
        return guided_samples(
            job.solver,
            model,
            network.config,
            indices,
            seed=options.seed,
            scale=options.scale,
            device=job.device,
            track=steps,
            classes=job.labels.labels,
        )

    label = f"sampling {options.images} images"
    batches = draw_in_batches(
        draw_batch, options.images, images_per_unit(options), steps, lambda steps: track(steps, label)
    )
    labels, shown = [], []
    for indices, x, y in batches:
        labels.append(y.cpu())
        wanted = max(len(sums.shown) - indices.start, 0)
        if wanted:
            shown.append(job.decoder(x[:wanted]).permute(0, 2, 3, 1).cpu())
    return torch.cat(labels).numpy(), torch.cat(shown).numpy()
