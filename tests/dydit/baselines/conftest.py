"""Sampling runs over a few steps, for every test of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dydit import Diffusion
from dydit.sampling import denoise

STEPS = 7


@pytest.fixture(scope="session")
def timesteps() -> tuple[int, ...]:
    """Of a run of `STEPS` steps, in the order of sampling."""
    return tuple(Diffusion.linear().respaced(STEPS).timestep_map.flip(0).tolist())


@pytest.fixture(scope="session")
def sampled(timesteps: tuple[int, ...]) -> Callable[..., Tensor]:
    """(network or method, seed) -> two guided images of a run, whose state is begun first where there is any."""

    def run(model: Any, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        config = getattr(model, "network", model).config
        shape = (2, config.in_channels, config.input_size, config.input_size)
        x, noise = torch.randn(shape, generator=generator), torch.randn((STEPS, *shape), generator=generator)
        if hasattr(model, "begin_run"):
            model.begin_run(timesteps)
        with torch.no_grad():
            return denoise(
                model,
                Diffusion.linear().respaced(STEPS),
                x,
                torch.tensor([1, 2]),
                noise=lambda step: noise[step],
                scale=1.5,
                null_label=config.num_classes,
            )

    return run
