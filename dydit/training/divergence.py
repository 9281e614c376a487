"""Where a training step stopped being finite: in which data, in which part of the network, or in whose gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dydit.observation import first_not_finite, rows_not_finite
from dydit.training.data import Data
from dydit.training.draws import Draws

SHOWN = 5
"""Rows of the data that are named."""


def tell_divergence(
    model: nn.Module, data: Data, draws: Draws, size: int, own: Iterable[int], compute: Callable[[int], Tensor]
) -> str:
    """Where NaN or infinity arose first in the micro-batches of a process, in words; empty: not in these.

    Each of them is computed once more, forward, as all processes of a sharded training must do together. The gradients
    must still be those of the step.

    Args:
        model: the network.
        data: on which it is trained.
        draws: of the step.
        size: images in a micro-batch.
        own: numbers of the micro-batches.
        compute: the loss of a micro-batch, which draws the same numbers again.
    """
    told: list[str] = []
    for index in own:
        rows, mirror, *_ = draws.micro_batch(index, size)
        broken = rows_not_finite(data.batch(rows, mirror)[0])
        losses: list[Tensor] = []
        found = first_not_finite(model, lambda: losses.append(compute(index)))  # noqa: B023 (called at once)
        if broken:
            told.append(f"the data hold NaN or infinity in {_named(rows, broken)}")
        elif found is not None:
            told.append(f"first in {found.module}, on {_named(rows, found.rows)}")
        elif not torch.isfinite(losses[0]):
            told.append(f"first in the loss of {_named(rows, range(len(rows)))}, with a finite output of the network")
    if told:
        return told[0]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    names = [name for name, gradient in gradients.items() if not _own(gradient).isfinite().all()]
    return f"first in the gradient of {names[-1]}" if names else ""  # backward goes from the last to the first


def _own(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process keeps; any other tensor whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _named(rows: Tensor, chosen: Iterable[int]) -> str:
    numbers = [int(rows[place]) for place in chosen if place < len(rows)]
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"rows {', '.join(map(str, numbers[:SHOWN]))}{more} of the data"
