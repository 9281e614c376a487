"""What one step trains on: rows of the data, timesteps, noise and gates, each a function of the seed and the step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dydit.sampling import mix
from dydit.training.recipe import Recipe

STRATA = 4


class Data(Protocol):
    """What is trained on, by row."""

    def __len__(self) -> int:
        """Number of rows."""

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """Images or latents (n, C, S, S) and labels (n,) of rows (n,), mirrored left to right where `mirror` (n,) says.

        It may draw from torch's global generator, which has a seed of its own for every part of every batch.
        """


@dataclass(frozen=True)
class InMemory:
    """Data in memory: images (M, C, S, S) in [-1, 1], or latents, and labels (M,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """As `Data.batch`."""
        rows = rows.to(self.images.device)
        return mirrored(self.images[rows], mirror), self.labels[rows]


def mirrored(x: Tensor, chosen: Tensor) -> Tensor:
    """Images (N, C, S, S), those of `chosen` (N,) mirrored left to right."""
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(-1), x)


def stratified_timesteps(batch: int, total: int, generator: torch.Generator) -> Tensor:
    """Timesteps (batch,) drawn in equal shares from the four quarters of [0, total)."""
    quarter = torch.arange(batch) % STRATA
    within = torch.rand(batch, generator=generator)
    return ((quarter + within) * (total / STRATA)).long().clamp(max=total - 1)


class Draws(NamedTuple):
    """The random choices of one batch, by place in it: rows of the data, which are mirrored, timesteps, and noise."""

    rows: Tensor
    mirror: Tensor
    t: Tensor
    noise: Tensor

    @classmethod
    def of(cls, recipe: Recipe, step: int, rows: int, shape: tuple[int, ...], timesteps: int) -> Draws:
        """Those of a step, from `rows` rows of data and `timesteps` timesteps; the noise of an image has `shape`."""
        generator, batch = torch.Generator().manual_seed(mix(recipe.seed, step)), recipe.batch_size
        return cls(
            torch.randint(rows, (batch,), generator=generator),
            (torch.rand(batch, generator=generator) < 0.5) & recipe.flip,
            stratified_timesteps(batch, timesteps, generator),
            torch.randn(batch, *shape, generator=generator),
        )

    def part(self, number: int, size: int) -> Draws:
        """Those of one part of the batch."""
        return Draws(*(each[number * size : (number + 1) * size] for each in self))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators of the CPU and of `device` at a seed; as they were, afterwards."""
    gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if gpu else []):
        torch.default_generator.manual_seed(seed)
        if gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
