"""Several processes in one training: they add up their gradients, and may each keep only a shard of the model.

With sharding (FSDP), every process keeps an equal shard of each weight, of its gradient, of its moving average and of
its Adam state. The weights of one block are put together while the block computes, forward and backward, and the rest
is dropped again afterwards.
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
"""Elements summed in one message: enough to use a network's full rate, and little memory beside the gradients."""


def shard_model(model: DiT, mesh: DeviceMesh) -> None:
    """Leave each process of `mesh` its shard of every parameter of `model`, in place, on the mesh's device.

    `forward`, `route` and `complete` work as before, but all processes must call them together. Gradients become means
    over the processes.
    """
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if isinstance(model, DyDiT):
        for module, name in ((model, "route"), (model, "complete"), *((block, "masked") for block in model.blocks)):
            register_fsdp_forward_method(module, name)


def sum_over_processes(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, which all must pass the same shapes and dtypes.

    Sharded tensors are left alone: FSDP has already reduced them during the backward pass.
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


def first_text(text: str) -> str:
    """The first text of all processes, in the order of their ranks, that is not empty; all must call this."""
    texts: list[str] = [text] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return next(filter(None, texts), "")


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, in every process, which all must call this; any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_state(state: Any) -> Any:
    """Nested dicts with every sharded tensor put together, on the CPU of the first process; None in the others.

    All processes must call it. The device holds one whole tensor at a time.
    """
    if isinstance(state, dict):
        return {key: gather_state(value) for key, value in state.items()}
    if not isinstance(state, DTensor):
        return state
    tensor = state.full_tensor()
    return tensor.cpu() if state.device_mesh.get_rank() == 0 else None


def shard_like(templates: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `gather_state`: `values`, sharded as the tensors of the same name in `templates` are.

    A value stays as it is where its template is not sharded, has another shape or does not exist. All processes must
    call it, each with whole tensors.
    """

    def shard(value: Any, template: Tensor | None) -> Any:
        if isinstance(template, DTensor) and isinstance(value, Tensor) and value.shape == template.shape:
            return distribute_tensor(value, template.device_mesh, template.placements)
        return value

    return {key: shard(value, templates.get(key)) for key, value in values.items()}
