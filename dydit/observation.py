"""What happens inside of a network: what its routers decide while it samples, and where its numbers become NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dydit.routing import Routing

Route = Callable[[Tensor, Tensor | int, Tensor], tuple[Tensor, Routing]]
"""(x, t, y) -> the network's output and the routing that made it, as `DyDiT.route`."""


@dataclass(frozen=True)
class Observation:
    """What the routers decided in one step of a sampling run, on one batch.

    `indices` are the images of the batch and `step` counts the steps taken before this one. The rows of `routing` are
    the images in this order, with their labels; under guidance the same images follow, with the null label.
    """

    indices: range
    step: int
    routing: Routing


class ObservedSampling:
    """A sampling model (x, t, y) -> output that passes calls on, and hands what was decided to its observers.

    Every call is one step of one batch: images are drawn in the order of their indices, from 0, and each batch takes
    all of its steps before the next one begins, as `dydit.sampling.draw_in_batches` does it.

    Args:
        route: the network's `route`, or a function that puts other masks in the place of the network's own.
        steps: network calls that a batch takes.
        branches: rows of a call per image, see `dydit.sampling.guidance_branches`.
        observers: called with the `Observation` of every step, one after another.
    """

    def __init__(self, route: Route, steps: int, branches: int, *observers: Callable[[Observation], None]) -> None:
        self.route = route
        self.steps = steps
        self.branches = branches
        self.observers = observers
        self._step = 0
        self._first = 0

    def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """Output of the network on x (N, C, S, S), timesteps t, (N,) or one for all, and labels y (N,)."""
        output, routing = self.route(x, t, y)
        indices = range(self._first, self._first + len(x) // self.branches)
        observation = Observation(indices, self._step, routing)
        for observer in self.observers:
            observer(observation)
        self._step += 1
        if self._step == self.steps:
            self._step, self._first = 0, indices.stop
        return output


@dataclass(frozen=True)
class NotFinite:
    """Where NaN or infinity arose first: the `module` by its name in the network, and the `rows` of its output."""

    module: str
    rows: tuple[int, ...]


@torch.no_grad()
def first_not_finite(network: nn.Module, run: Callable[[], object]) -> NotFinite | None:
    """The first module of a network, in the order of computation, whose output is not finite in `run`; None: none is.

    Of modules within others the innermost is named. Every output is looked at, which a device has to wait for: this is
    for a run that has failed.

    Args:
        network: whose modules are watched.
        run: calls the network, or parts of it.
    """
    found: list[NotFinite] = []

    def watch(name: str) -> Callable[..., None]:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and (rows := rows_not_finite(output)):
                found.append(NotFinite(name, rows))

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if name]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def rows_not_finite(values: Tensor) -> tuple[int, ...]:
    """Rows of a tensor (N, ...) that hold NaN or infinity."""
    return tuple((~torch.isfinite(values)).reshape(len(values), -1).any(1).nonzero().flatten().tolist())
