"""Guided sampling whose every image is a function of (seed, index) alone.

Each image owns a random generator: its label is drawn first, then the initial noise, then one noise tensor per step.
Batch size, order and process count therefore change nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from dydit.diffusion import Diffusion, Model, Sampler, check_sampler, to_device
from dydit.errors import InputError, check_indices

Track = Callable[[Iterable[int]], Iterable[int]]
"""Wraps an iterable to show progress."""


def guided(model: Model, x: Tensor, t: Tensor | int, y: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on a doubled batch, as DiT publishes it.

    Args:
        model: the network.
        x: (2N, C, S, S); only the first half is used, and the second half sees the same images.
        t: timesteps, (2N,) or one for all.
        y: (2N,) labels, then null labels.
        scale: guidance scale; 1 is no guidance, and 0 the unconditional noise.

    Returns:
        (2N, 2C, S, S); the noise of the first three channels is guided (all channels of a model with fewer).

    Raises:
        InputError: an odd number of rows, or another number of timesteps or labels.
    """
    timesteps = len(t) if isinstance(t, Tensor) else len(x)
    if len(x) % 2 or not len(x) == timesteps == len(y):
        raise InputError(
            f"guidance: {len(x)} images, {timesteps} timesteps and {len(y)} labels; give as many of each, every image "
            "twice: with its label, and with the null label"
        )
    half = x[: len(x) // 2]
    output = model(torch.cat([half, half]), t, y)
    channels = min(3, x.shape[1])
    conditional, unconditional = output[:, :channels].chunk(2)
    eps = unconditional + scale * (conditional - unconditional)
    return torch.cat([torch.cat([eps, eps]), output[:, channels:]], dim=1)


def guidance_branches(scale: float) -> int:
    """Rows of the network's batch per image: 2 under guidance, conditional and unconditional; 1 at scale 1."""
    return 1 if scale == 1.0 else 2


def check_scale(scale: float) -> float:
    """Return a guidance scale unchanged.

    Raises:
        InputError: it is not finite, or below 1. At 0 the label would be ignored, which some take for "no guidance".
    """
    if not math.isfinite(scale):
        raise InputError(f"scale = {scale}; give a finite guidance scale, such as 1.5")
    if scale < 1.0:
        raise InputError(f"scale = {scale}; below 1 the label counts less than without guidance, which is scale 1")
    return scale


def computing_in(dtype: torch.dtype, model: Model) -> Model:
    """A network that computes in `dtype`, with float32 inputs and outputs: the sampler's state stays float32."""
    return lambda x, t, y: model(x.to(dtype), t, y).float()


def predict(model: Model, x: Tensor, timestep: int, y: Tensor, scale: float, null_label: int | None) -> Tensor:
    """Network output on images that share an original timestep, guided unless `scale` is 1.

    Args:
        model: the network.
        x: (N, C, S, S).
        timestep: the original timestep, which the network takes as this number.
        y: labels (N,).
        scale: guidance scale; at 1 the network sees no null labels.
        null_label: required when `scale` differs from 1.

    Returns:
        (N, 2C, S, S), noise and variance interpolation.

    Raises:
        InputError: guidance without a null label, or a scale below 1.
    """
    check_scale(scale)
    if scale == 1.0:
        return model(x, timestep, y)
    if null_label is None:
        raise InputError(f"guidance scale {scale} needs a null_label; give the model's class count, or scale 1")
    labels = torch.cat([y, torch.full_like(y, null_label)])
    return guided(model, torch.cat([x, x]), timestep, labels, scale)[: len(x)]


class ImageNoise:
    """One random generator per image, on the CPU so that every device sees the same numbers."""

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        if not len(indices):
            raise InputError("images: no index; give at least one")
        self.generators = [torch.Generator().manual_seed(mix(seed, index)) for index in indices]

    def labels(self, num_classes: int) -> Tensor:
        """Uniform labels (N,) from 0 to `num_classes` - 1; call before `normal`."""
        if num_classes < 1:
            raise InputError(f"num_classes = {num_classes}; it must be at least 1")
        return torch.cat([torch.randint(num_classes, (1,), generator=g) for g in self.generators])

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise (N, *shape)."""
        return torch.stack([torch.randn(tuple(shape), generator=g) for g in self.generators])


def mix(seed: int, index: int) -> int:
    """A 63-bit generator seed; neighbouring pairs get very different ones (splitmix64's finaliser)."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + index * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1


def denoise(
    model: Model,
    diffusion: Diffusion,
    x: Tensor,
    y: Tensor,
    *,
    noise: Callable[[int], Tensor],
    sampler: Sampler = "ddpm",
    scale: float = 1.0,
    null_label: int | None = None,
    on_step: Callable[[Tensor], None] | None = None,
    track: Track = lambda steps: steps,
) -> Tensor:
    """Run the reverse process over every step of `diffusion`.

    Args:
        model: the network; it sees original timesteps.
        diffusion: the (respaced) schedule.
        x: initial noise (N, C, S, S).
        y: labels, int64 (N,).
        noise: k -> the noise (N, C, S, S) of the k-th step taken.
        sampler: ancestral DDPM, or DDIM with eta = 0, which draws no noise.
        scale: guidance scale; at 1 the network sees no null labels.
        null_label: required when `scale` differs from 1.
        on_step: called with the state after every step.
        track: progress wrapper over the steps.

    Returns:
        x_0, (N, C, S, S).

    Raises:
        InputError: guidance without a null label, a scale below 1, an unknown sampler, labels that are none, or, in a
            step, what the network or the schedule refuses.
    """
    check_sampler(sampler)
    check_scale(scale)
    if null_label is not None:  # once before the loop, where a GPU has nothing to do yet
        check_indices("labels", y.cpu(), len(x), null_label + 1, f"classes 0 to {null_label - 1}")
    timesteps = diffusion.timestep_map.tolist()
    for taken, step in enumerate(track(range(len(diffusion) - 1, -1, -1))):
        t = torch.full((len(x),), step, device=x.device)
        output = predict(model, x, timesteps[step], y, scale, null_label)
        x = diffusion.ddim_step(output, x, t) if sampler == "ddim" else diffusion.ddpm_step(output, x, t, noise(taken))
        if on_step is not None:
            on_step(x)
    return x


Solve = Callable[[Tensor, Tensor, Callable[[int], Tensor]], Tensor]
"""(initial noise (N, C, S, S), labels (N,), k -> noise of the k-th step taken) -> images (N, C, S, S)."""


@torch.no_grad()
def draw(
    solve: Solve,
    shape: Sequence[int],
    num_classes: int,
    indices: Sequence[int],
    *,
    seed: int,
    device: torch.device | str = "cpu",
    classes: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images (N, *shape) and their labels (N,) for image indices `indices`, from their own noise by any sampler.

    Labels are uniform over the `classes`, by default over all, 0 to `num_classes` - 1.

    Raises:
        InputError: no index, or classes that the network does not have.
    """
    source = ImageNoise(seed, indices)
    chosen = torch.tensor(range(num_classes) if classes is None else classes, dtype=torch.int64)
    check_indices("classes", chosen, len(chosen), num_classes, f"classes 0 to {num_classes - 1}")
    y = chosen[source.labels(len(chosen))].to(device)
    x = source.normal(shape).to(device)
    return solve(x, y, lambda _: to_device(source.normal(shape), x.device)), y


def generate(
    model: Model,
    diffusion: Diffusion,
    shape: Sequence[int],
    num_classes: int,
    indices: Sequence[int],
    *,
    seed: int,
    scale: float,
    sampler: Sampler = "ddpm",
    device: torch.device | str = "cpu",
    track: Track = lambda steps: steps,
) -> tuple[Tensor, Tensor]:
    """Images (N, *shape) and their labels (N,) for image indices `indices`; the null label is `num_classes`."""

    def solve(x: Tensor, y: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        return denoise(
            model, diffusion, x, y, noise=noise, sampler=sampler, scale=scale, null_label=num_classes, track=track
        )

    return draw(solve, shape, num_classes, indices, seed=seed, device=device)


def draw_in_batches(
    draw_batch: Callable[[range, Track], tuple[Tensor, Tensor]],
    images: int,
    batch_size: int,
    steps: int,
    track: Track = lambda steps: steps,
) -> Iterator[tuple[range, Tensor, Tensor]]:
    """Draw images 0 to `images` - 1 in the order of their indices, one batch after another.

    Args:
        draw_batch: (image indices, progress wrapper over the batch's steps) -> images (n, C, S, S) and labels (n,), as
            `draw` and `generate` return them.
        images: how many.
        batch_size: how many at once; the last batch may be smaller.
        steps: steps that a batch takes.
        track: progress wrapper over the steps of all batches.

    Yields:
        Indices, images (n, C, S, S) and labels (n,) of one batch.
    """
    batches = [range(start, min(start + batch_size, images)) for start in range(0, images, batch_size)]
    progress = iter(track(range(steps * len(batches))))

    def advance(inner: Iterable[int]) -> Iterator[int]:
        for step in inner:
            next(progress, None)
            yield step

    for indices in batches:
        x, y = draw_batch(indices, advance)
        yield indices, x, y
    next(progress, None)  # ends the display: all of its steps were already counted
