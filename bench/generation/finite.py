"""Sampling that is refused where its numbers are not finite, with the first such step, its images and the layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dydit import DiT, InputError, Model
from dydit.dit import timestep_rows
from dydit.observation import first_not_finite, rows_not_finite

SHOWN = 5
"""Images that are named."""


class FiniteModel:
    """A sampling model (x, t, y) -> output that passes calls on, and keeps the first step whose output is not finite.

    No step waits for the device: what went wrong is asked for once, after the last of them.

    Args:
        model: passed on to.
        timesteps: of the run, in the order in which the model is called.
        indices: of the images of the batch, (N,).
    """

    def __init__(self, model: Model, timesteps: Sequence[int], indices: Sequence[int]) -> None:
        self.model, self.timesteps, self.indices = model, timesteps, indices
        self.step = 0
        self._first: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """Output of the model."""
        output = self.model(x, t, y)
        broken = ~torch.isfinite(output).flatten(1).all(1)
        step = torch.full((), self.step, device=x.device)
        if self._first is None:
            self._first = broken, step, x, y
        else:
            known = self._first[0].any()
            found = zip(self._first, (broken, step, x, y), strict=True)
            broken, step, x, y = (torch.where(known, first, now) for first, now in found)
            self._first = broken, step, x, y
        self.step += 1
        return output

    def check(self, x: Tensor) -> Tensor:
        """The images (N, C, S, S) after the last step, unchanged.

        Raises:
            InputError: a step was not finite, or they are not; the message has the images, the step and the layer.
        """
        if self._first is not None and self._first[0].any():
            raise InputError(self._told(*self._first))
        if rows := rows_not_finite(x):
            raise InputError(f"{self._images(rows)}: NaN or infinity after the last step; {_SAMPLER}")
        return x

    def _told(self, broken: Tensor, step: Tensor, x: Tensor, y: Tensor) -> str:
        timestep = self.timesteps[int(step)]
        where = f"{self._images(broken.nonzero().flatten().tolist())}: NaN or infinity in step {int(step) + 1}"
        where += f" of {len(self.timesteps)}, timestep {timestep}"
        if rows_not_finite(x):
            return f"{where}, and in what the step began with; {_SAMPLER}"
        network = _network_in(self.model)
        found = None
        if network is not None:
            kind = next(network.parameters(), x).dtype
            found = first_not_finite(network, lambda: network(x.to(kind), timestep_rows(timestep, x), y))
        layer = f", first in {found.module}" if found else ", and not in the network by itself: in what runs it"
        return f"{where}{layer}; the weights are too large for the arithmetic: try --dtype fp32, or another checkpoint"

    def _images(self, rows: Sequence[int]) -> str:
        """The images of rows of a batch, which holds each of them once or, under guidance, twice."""
        numbers = sorted({self.indices[row % len(self.indices)] for row in rows})
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        return f"image {', '.join(map(str, numbers[:SHOWN]))}{more}"


_SAMPLER = "guidance or the sampler overflowed: lower --scale, or take more --steps"


def _network_in(model: Any) -> nn.Module | None:
    """The network inside of what runs it, such as an engine or a method; None where there is none."""
    while not isinstance(model, nn.Module):
        inside = [getattr(model, name) for name in ("module", "model") if hasattr(model, name)]
        inside += [getattr(getattr(model, "route", None), "__self__", None)]
        if inside[0] is None:
            return None
        model = inside[0]
    network = getattr(model, "network", None)
    return network if isinstance(network, DiT) else model
