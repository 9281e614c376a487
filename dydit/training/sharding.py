"""The processes of one training: they sum what each computed, and may hold the model in shares.

Shared out (FSDP), every weight lies in equal parts with the processes, and so do its gradient, its moving average and
its Adam state. A block's weights come together while it computes, forwards and backwards, and part again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from dydit.dit import DiT
from dydit.dydit import DyDiT

BUCKET = 2**24
"""Elements that processes sum at once: enough to fill a network, and little memory beside the gradients."""


def share_out(model: DiT, mesh: DeviceMesh) -> None:
    """Leave each process of `mesh` its part of every parameter of `model`, on the mesh's device.

    `forward`, `route` and `complete` work as before, as calls that all processes make; gradients are means over them.
    """
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if isinstance(model, DyDiT):
        for module, name in ((model, "route"), (model, "complete"), *((block, "masked") for block in model.blocks)):
            register_fsdp_forward_method(module, name)


def sum_over_processes(tensors: list[Tensor]) -> None:
    """Sum each of the tensors, in place, over all processes; they all have a tensor of its shape and dtype there.

    Those that are shared out are passed over: theirs are reduced as they arise.
    """
    tensors = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
    start = 0
    while start < len(tensors):
        stop, elements = start + 1, tensors[start].numel()
        while stop < len(tensors) and elements + tensors[stop].numel() <= BUCKET:
            elements += tensors[stop].numel()
            stop += 1
        bucket = tensors[start:stop]
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, summed in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(summed.view_as(tensor))
        start = stop


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts, which all processes must ask for; one that is not shared out is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Any) -> Any:
    """Containers of tensors, those that are shared out whole and on the CPU of the first process; None in the others.

    One tensor at a time comes together on the device. All processes must call it.
    """
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if not isinstance(state, DTensor):
        return state
    tensor = state.full_tensor()
    return tensor.cpu() if state.device_mesh.get_rank() == 0 else None


def shared_as(own: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse: `values` with each whole tensor in parts whose own by that name and shape is; all must call it."""

    def part(value: Any, like: Tensor | None) -> Any:
        if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
            return distribute_tensor(value, like.device_mesh, like.placements)
        return value

    return {key: part(value, own.get(key)) for key, value in values.items()}
