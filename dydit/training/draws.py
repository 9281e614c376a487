"""The random choices of a training step, each a function of the seed, the step and the place in the batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dydit.sampling import mix
from dydit.training.recipe import Recipe

STRATA = 4
"""Equal ranges of timesteps from which a batch draws in turn."""


class Draws(NamedTuple):
    """The random choices for a batch of n images, one entry per place in the batch.

    rows (n,) of the data, int64; mirror (n,), whether the image is mirrored, bool; t (n,), original timesteps, int64;
    noise (n, C, S, S), standard normal. All are on the CPU, so that every device trains on the same numbers.
    """

    rows: Tensor
    mirror: Tensor
    t: Tensor
    noise: Tensor

    @classmethod
    def of_step(cls, recipe: Recipe, step: int, *, rows: int, shape: tuple[int, ...], timesteps: int) -> Draws:
        """The choices of one step.

        Args:
            recipe: gives the seed, the size n of the batch, and whether images are mirrored.
            step: counted from 0.
            rows: number of rows of the data.
            shape: (C, S, S) of one image or latent.
            timesteps: number of timesteps of the diffusion.
        """
        generator, batch = torch.Generator().manual_seed(mix(recipe.seed, step)), recipe.batch_size
        return cls(
            shuffled_rows(recipe.seed, step * batch, batch, rows),
            (torch.rand(batch, generator=generator) < 0.5) & recipe.flip,
            stratified_timesteps(batch, timesteps, generator),
            torch.randn(batch, *shape, generator=generator),
        )

    def micro_batch(self, index: int, size: int) -> Draws:
        """The choices for the `index`-th run of `size` consecutive places."""
        return Draws(*(choices[index * size : (index + 1) * size] for choices in self))


def shuffled_rows(seed: int, start: int, count: int, rows: int) -> Tensor:
    """Row numbers (count,), int64, from place `start` of an endless sequence of epochs.

    Every epoch holds each of the `rows` rows once, in an order of its own. A batch may reach over the end of an epoch,
    so no row is left out; the released scripts, which shuffle epochs too, drop the incomplete batch at the end.
    """
    drawn = []
    while count:
        epoch, place = divmod(start, rows)
        drawn.append(_epoch_order(seed, epoch, rows)[place : place + count])
        start, count = start + len(drawn[-1]), count - len(drawn[-1])
    return torch.cat(drawn)


@functools.lru_cache(maxsize=2)  # to shuffle ImageNet anew at every step would take longer than some steps
def _epoch_order(seed: int, epoch: int, rows: int) -> Tensor:
    # Micro-batches seed their generators by the same rule with an index from 1 on, so the two never coincide.
    return torch.randperm(rows, generator=torch.Generator().manual_seed(mix(mix(seed, epoch), 0)))


def stratified_timesteps(batch: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps (batch,), int64: place i draws from the (i mod 4)-th quarter of [0, timesteps).

    So every quarter has an equal share of the batch. The released scripts do this; the paper does not mention it.
    """
    quarter = torch.arange(batch) % STRATA
    within = torch.rand(batch, generator=generator)
    return ((quarter + within) * (timesteps / STRATA)).long().clamp(max=timesteps - 1)


@contextlib.contextmanager
def seed_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device`, and put them back where they were afterwards."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
