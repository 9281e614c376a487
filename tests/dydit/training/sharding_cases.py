"""What each of two processes trains; test_sharding.py runs this in both and judges what they leave.

`GIVEN` is the file of what to train, `MADE` the start of the name to write to; torch.distributed's variables are set.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from dydit import DiT, DyDiT, InputError
from dydit.training.data import InMemory
from dydit.training.recipe import Recipe
from dydit.training.trainer import Training

torch.set_num_threads(1)
dist.init_process_group("gloo")
given = torch.load(GIVEN, weights_only=False)  # type: ignore[name-defined]  # noqa: F821
mesh = init_device_mesh("cpu", (2,))


def training(kind: type[DiT], recipe: Recipe, shared: bool = True, **options: Any) -> Training:
    model = kind(**given["config"])
    model.load_state_dict(given["weights"][kind.__name__])
    return Training(model, recipe, rank=dist.get_rank(), processes=2, mesh=mesh if shared else None, **options)


def finished(begun: Training) -> dict[str, Any]:
    """What a training leaves: its logs, its state at every other step and the end, and what else is asked of it."""
    states, logs = {}, []
    while begun.step < begun.recipe.steps:
        if begun.step % 2 == 0:
            states[begun.step] = copied(begun.state())
        logs.append(begun.advance(InMemory(*given["data"])))
    states[begun.step] = begun.state()
    return {"logs": logs, "states": states, "weights": begun.weights(), "held": held(begun)}


def copied(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return state.clone() if isinstance(state, Tensor) else state


def held(trained: Training) -> dict[str, float]:
    """Share of weights, gradients, average and Adam's moments that lies in this process, in bytes of memory."""
    parameters = list(trained.model.parameters())
    kinds = {
        "weights": parameters,
        "gradients": [parameter.grad for parameter in parameters if parameter.grad is not None],
        "average": list(trained.averaged.parameters()),
        "moments": [value for each in trained.optimizer.state.values() for value in each.values() if value.dim()],
    }
    return {name: allocated(tensors) / sum(t.nbytes for t in tensors) for name, tensors in kinds.items() if tensors}


def allocated(tensors: list[Tensor]) -> int:
    """Bytes behind the local parts of tensors; several may be views of one allocation."""
    parts = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())


def resumed() -> Training:
    begun = training(DyDiT, given["dynamic"])
    begun.restore(given["state"])
    return begun


def refusal() -> str:
    images, labels = given["data"]
    try:
        training(DyDiT, given["dynamic"]).advance(InMemory(images * torch.nan, labels))
    except InputError as error:
        return str(error)
    return "none"


dynamic, static = given["dynamic"], given["static"]
limited = dataclasses.replace(dynamic, steps=1, gradient_limit=given["limit"])
made = {
    "replicas": finished(training(DyDiT, dynamic, shared=False)),
    "shares": finished(training(DyDiT, dynamic)),
    "recomputed": finished(training(DyDiT, dynamic, recompute=True)),
    "bf16": finished(training(DyDiT, dynamic, precision="bf16")),
    "static": finished(training(DiT, static)),
    "resumed": finished(resumed()),
    "limited": finished(training(DyDiT, limited)),
    "refusal": refusal(),
}
torch.save(made, MADE + str(dist.get_rank()))  # type: ignore[name-defined]  # noqa: F821
dist.destroy_process_group()
