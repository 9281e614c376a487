"""Asks the width routers at every timestep and watches the token routers over a guided sampling run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.shards import unit_ranges
from bench.generation.job import GenerationJob, GenerationOptions, images_per_unit, prepare_generation
from bench.generation.samplers import guided_samples
from bench.machine import check_fits, track
from bench.routing.learned import Bools, Floats, Learned
from dydit import Diffusion, DyDiT, InputError, Routing, flops_ratio
from dydit.inference import WidthPlan

SHOWN = 6
"""Images whose own token maps are kept: the first of the run."""


ENGINE = "masked"
"""How the network runs: the routers are read where their masks are applied."""


def prepare_study(options: GenerationOptions) -> GenerationJob:
    """As `generate.prepare`, for a network whose widths are a function of the timestep.

    Raises:
        InputError: as `generate.prepare`, or a network without such routers.
    """
    job = prepare_generation(dataclasses.replace(options, engine=None))
    network = job.network
    if not isinstance(network, DyDiT):
        raise InputError(f"{options.checkpoint}: holds a {type(network).__name__}, which routes nothing; give a DyDiT")
    if not network.realised:
        raise InputError(
            f"{options.checkpoint}: holds a {type(network).__name__}, whose masks are not DyDiT's; give a DyDiT"
        )
    if job.device.type == "cuda":
        unit = images_per_unit(options)
        check_fits(type(network).__name__, network.config, unit, job.device, torch.float32)
    return dataclasses.replace(job, engine=ENGINE)


def observe(options: GenerationOptions, job: GenerationJob) -> Learned:
    """Ask the width routers at every timestep, and watch the token routers over a sampling run of all images."""
    network = job.network.to(job.device)
    assert isinstance(network, DyDiT)
    heads, channels = widths(network)
    watch = TokenWatch(network, len(job.solver.timesteps), options.images, 1 if options.scale == 1.0 else 2)
    labels, shown = _sample(options, job, watch)
    token_map = watch.token_count.astype(np.float32) / np.float32(options.images)
    return Learned(
        timesteps=np.array(job.solver.timesteps, dtype=np.int64),
        heads_open=heads,
        channels_open=channels,
        head_rate=heads.mean(-1),
        channel_rate=channels.mean(-1),
        width_ratio=_width_ratio(network, heads, channels),
        token_map=token_map,
        token_rate=watch.token_count.mean((-2, -1)) / options.images,
        branches_differ=watch.differ_count / (options.images * network.config.tokens),
        flops_ratio=watch.step_ratio / options.images,
        labels=labels,
        image_token_rate=watch.image_tokens / len(job.solver.timesteps),
        image_flops_ratio=watch.image_ratio / len(job.solver.timesteps),
        shown_images=shown,
        shown_maps=watch.shown,
    )


def widths(network: DyDiT) -> tuple[Bools, Bools]:
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


class TokenWatch:
    """A DyDiT as a sampling model that adds up what its token routers decide.

    `begin` announces the images of the next run; every call is one step of it, its rows all conditional images, then,
    with guidance, the same images unconditional.
    """

    def __init__(self, network: DyDiT, steps: int, images: int, branches: int) -> None:
        config = network.config
        self.network = network
        self.indices = range(0)
        self.step = 0
        layers, grid = config.depth, config.grid_size
        self.token_count = np.zeros((branches, steps, layers, grid, grid), dtype=np.int64)
        self.differ_count = np.zeros((steps, layers), dtype=np.int64)
        self.step_ratio = np.zeros((branches, steps))
        self.image_tokens = np.zeros((images, branches))
        self.image_ratio = np.zeros((images, branches))
        self.shown = np.zeros((min(SHOWN, images), branches, steps, layers, grid, grid), dtype=np.bool_)

    def begin(self, indices: range) -> None:
        """The next calls sample these images, from the first step on."""
        self.indices = indices
        self.step = 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        output, routing = self.network.route(x, t, y)
        branches, grid = len(self.token_count), self.token_count.shape[-1]
        opened = routing.tokens.bool().cpu().numpy()
        opened = opened.reshape(branches, len(self.indices), -1, grid, grid)  # (B, n, L, G, G)
        ratio = flops_ratio(routing, self.network.config).double().cpu().numpy().reshape(branches, -1)
        self._add(opened, ratio)
        self.step += 1
        return output

    def _add(self, opened: Bools, ratio: Floats) -> None:
        rows = slice(self.indices.start, self.indices.stop)
        self.token_count[:, self.step] += opened.sum(1)
        self.step_ratio[:, self.step] += ratio.sum(1)
        self.image_tokens[rows] += opened.mean((2, 3, 4)).T
        self.image_ratio[rows] += ratio.T
        if len(opened) == 2:
            self.differ_count[self.step] += (opened[0] != opened[1]).sum((0, 2, 3))
        kept = range(self.indices.start, min(self.indices.stop, len(self.shown)))
        self.shown[kept.start : kept.stop, :, self.step] = opened[:, : len(kept)].swapaxes(0, 1)


def _sample(
    options: GenerationOptions, job: GenerationJob, watch: TokenWatch
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Labels (N,) of all images and the pixels of the first; the rest are drawn for their masks alone."""
    config = job.network.config
    batches = unit_ranges(options.images, images_per_unit(options))
    bar = iter(track(range(len(batches) * len(job.solver.timesteps)), f"sampling {options.images} images"))

    def advance(steps: Iterable[int]) -> Iterable[int]:
        for step in steps:
            next(bar, None)
            yield step

    labels, shown = [], []
    for indices in batches:
        watch.begin(indices)
        x, y = guided_samples(
            job.solver,
            watch,
            config,
            indices,
            seed=options.seed,
            scale=options.scale,
            device=job.device,
            track=advance,
        )
        labels.append(y.cpu())
        wanted = max(len(watch.shown) - indices.start, 0)
        if wanted:
            shown.append(job.decoder(x[:wanted]).permute(0, 2, 3, 1).cpu())
    next(bar, None)  # closes the bar
    return torch.cat(labels).numpy(), torch.cat(shown).numpy()
