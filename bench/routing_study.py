"""What routing learned: which widths a DyDiT opens at each timestep, and which tokens pass its MLPs while it samples.

Widths depend on the timestep alone, so that the routers are asked at every timestep and the answer is exact. Tokens
depend on the image: they are observed over a guided sampling run, as sums, so that memory does not grow with maps of
images that nobody looks at.

Shape letters: T = 1000 timesteps, S steps of the run, B branches of guidance (conditional, then unconditional; one
without guidance), N images (M of them shown), L layers (blocks), H heads and channel groups, G side of the token grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import device_memory, environment, generate, results
from bench.arithmetic import arithmetic
from bench.progress import track
from dydit.diffusion import Diffusion
from dydit.dydit import DyDiT
from dydit.errors import InputError
from dydit.files import atomic_path
from dydit.flops import flops_ratio
from dydit.routing import Routing
from dydit.sampling import draw
from dydit.slices import WidthPlan

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

SHOWN = 6
"""Images whose own token maps are kept: the first of the run."""
BRANCHES = ("conditional", "unconditional")
ENGINE = "masked"
"""How the network runs: the routers are read where their masks are applied."""


@dataclass(frozen=True)
class Learned:
    """The arrays of a study, all numpy; each field is a key of `routing.npz`, and its annotation says what it holds.

    `timesteps` gives the original timestep of each step of the run; the first axis of the width arrays is the timestep
    itself. All rates are shares of what the complete model has open.
    """

    timesteps: Annotated[NDArray[np.int64], "(S,) original timestep of each step, in the order taken"]
    heads_open: Annotated[Bools, "(T, L, H) whether a head is open at a timestep"]
    channels_open: Annotated[Bools, "(T, L, H) whether a group of MLP channels is open at a timestep"]
    head_rate: Annotated[Floats, "(T, L) open share of heads"]
    channel_rate: Annotated[Floats, "(T, L) open share of channel groups"]
    width_ratio: Annotated[Floats, "(T,) FLOPs ratio of the blocks with these widths and all tokens open"]
    token_map: Annotated[Floats, "(B, S, L, G, G) share of the images whose token at a row and column passes the MLP"]
    token_rate: Annotated[Floats, "(B, S, L) share of tokens that pass the MLP"]
    branches_differ: Annotated[Floats, "(S, L) share of tokens on which the branches decide differently; 0 if B = 1"]
    flops_ratio: Annotated[Floats, "(B, S) FLOPs ratio of the blocks, mean over images"]
    labels: Annotated[NDArray[np.int64], "(N,) labels of the images"]
    image_token_rate: Annotated[Floats, "(N, B) share of tokens that pass the MLP, mean over steps and layers"]
    image_flops_ratio: Annotated[Floats, "(N, B) FLOPs ratio of the blocks, mean over steps"]
    shown_images: Annotated[NDArray[np.uint8], "(M, height, width, channels) the first images"]
    shown_maps: Annotated[Bools, "(M, B, S, L, G, G) whether their tokens pass the MLP"]

    @property
    def branches(self) -> tuple[str, ...]:
        """Names along the axis B."""
        return BRANCHES[: len(self.token_map)]


def run(options: generate.Options) -> tuple[Learned, dict[str, Any]]:
    """Study a checkpoint and write arrays, tables, figures and findings to `options.out`.

    Args:
        options: as for generation, of which `engine` and `png` are not used: what is observed is the masked forward.

    Returns:
        The arrays, and the record that was written.

    Raises:
        InputError: as `prepare`, or an output directory that cannot be written; before any long work.
    """
    from bench import routing_figures, routing_tables

    directory = results.prepare_output(options.out)
    with arithmetic(options.threads, options.tf32):
        job = prepare(options)
        record = environment.record(
            checkpoint=environment.portable(options.checkpoint),
            images=options.images,
            sampling=generate.identity(options, job),
        )
        learned = study(options, job)
    write_arrays(learned, directory / "routing.npz")
    for name, table in routing_tables.tables(learned).items():
        results.write_table(table, directory, name)
    figures = "\n".join(f"![{path.stem}]({path.name})\n" for path in routing_figures.write(learned, directory))
    with atomic_path(directory / "findings.md") as partial:
        partial.write_text(f"{routing_tables.findings(learned, record)}\n{figures}", encoding="utf-8")
    results.write_run(record, directory)
    return learned, record


def prepare(options: generate.Options) -> generate.Job:
    """As `generate.prepare`, for a network whose widths are a function of the timestep.

    Raises:
        InputError: as `generate.prepare`, or a network without such routers.
    """
    job = generate.prepare(dataclasses.replace(options, engine=None))
    network = job.network
    if not isinstance(network, DyDiT):
        raise InputError(f"{options.checkpoint}: holds a {type(network).__name__}, which routes nothing; give a DyDiT")
    if not network.realised:
        raise InputError(
            f"{options.checkpoint}: holds a {type(network).__name__}, whose masks are not DyDiT's; give a DyDiT"
        )
    if job.device.type == "cuda":
        unit = _unit(options)
        device_memory.check_fits(type(network).__name__, network.config, unit, job.device, torch.float32)
    return dataclasses.replace(job, engine=ENGINE)


def study(options: generate.Options, job: generate.Job) -> Learned:
    """Ask the width routers at every timestep, and watch the token routers over a sampling run of all images."""
    network = job.network.to(job.device)
    assert isinstance(network, DyDiT)
    heads, channels = widths(network)
    watch = TokenWatch(network, len(job.run.timesteps), options.images, 1 if options.scale == 1.0 else 2)
    labels, shown = _sample(options, job, watch)
    token_map = watch.token_count.astype(np.float32) / np.float32(options.images)
    return Learned(
        timesteps=np.array(job.run.timesteps, dtype=np.int64),
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
        image_token_rate=watch.image_tokens / len(job.run.timesteps),
        image_flops_ratio=watch.image_ratio / len(job.run.timesteps),
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


def _unit(options: generate.Options) -> int:
    return options.unit or min(generate.UNIT, options.images)


def _sample(
    options: generate.Options, job: generate.Job, watch: TokenWatch
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Labels (N,) of all images and the pixels of the first; the rest are drawn for their masks alone."""
    config = job.network.config
    unit = _unit(options)
    batches = [range(start, min(start + unit, options.images)) for start in range(0, options.images, unit)]
    bar = iter(track(range(len(batches) * len(job.run.timesteps)), f"sampling {options.images} images"))

    def advance(steps: Iterable[int]) -> Iterable[int]:
        for step in steps:
            next(bar, None)
            yield step

    def solve(x: Tensor, y: Tensor, noise: Any) -> Tensor:
        return job.run.solve(
            watch, x, y, noise=noise, scale=options.scale, null_label=config.num_classes, track=advance
        )

    shape = (config.in_channels, config.input_size, config.input_size)
    labels, shown = [], []
    for indices in batches:
        watch.begin(indices)
        x, y = draw(solve, shape, config.num_classes, indices, seed=options.seed, device=job.device)
        labels.append(y.cpu())
        wanted = max(len(watch.shown) - indices.start, 0)
        if wanted:
            shown.append(job.decoder(x[:wanted]).permute(0, 2, 3, 1).cpu())
    next(bar, None)  # closes the bar
    return torch.cat(labels).numpy(), torch.cat(shown).numpy()


def write_arrays(learned: Learned, path: Path) -> None:
    """Write every field of `learned` under its name, compressed, whole or not at all."""
    with atomic_path(path) as partial:
        np.savez_compressed(partial, **arrays(learned))


def arrays(learned: Learned) -> dict[str, Any]:
    """The fields by name."""
    return {field.name: getattr(learned, field.name) for field in dataclasses.fields(learned)}


def meanings() -> dict[str, str]:
    """What each array holds, by name."""
    hints = get_type_hints(Learned, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(Learned)}
