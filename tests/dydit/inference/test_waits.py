"""The host never waits for a GPU inside a sampling step, shown on fake CUDA tensors: devices and shapes without values.

Whatever reads a value of such a tensor raises, since there is none: `.item()`, `.tolist()`, a boolean, `nonzero`.
`Watch` refuses what copies between the devices, and what would wait without reading a value.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dydit import Diffusion, DiT, DyDiT, Sampler, generate
from dydit.baselines import apply_method
from dydit.inference import Engine, WidthPlan, products, triton_blocks
from dydit.inference.torch_blocks import TorchBlocks


class Wait(Exception):
    """The host would wait for the device."""


class Watch(TorchDispatchMode):
    """Inside this context an operation on fake tensors raises where the host would wait for a GPU."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        sources = {value.device.type for value in given}
        made = {value.device.type for value in tree_leaves(result) if isinstance(value, Tensor)}
        name = operation.overloadpacket.__name__ if hasattr(operation, "overloadpacket") else ""
        fetched = "cuda" in sources and "cpu" in made
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and True in args[2:])
        copied = name in ("_to_copy", "copy_") and sources | made == {"cpu", "cuda"} and not asynchronous
        masked = name.startswith("index_put") and any(value.dtype == torch.bool for value in tree_leaves(args[1]))
        if fetched or copied or (masked and "cuda" in sources):
            raise Wait(f"{operation} on {sources} makes {made}")
        return result


class Launches:
    """In place of the device code: every kernel may be launched with anything and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return collections.defaultdict(lambda: lambda *_, **__: None)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fake one: kernels do nothing, memory is never locked, and modules are made in bfloat16, which fakes keep."""
    monkeypatch.setattr(triton_blocks, "_device_code", Launches)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        yield


def on_cuda(kind: type[DiT], build: Callable[..., Any]) -> Any:
    with torch.device("cuda"):
        model = kind(**build().config.kwargs()).eval()
        model.pos_embed = model.pos_embed.bfloat16()
    return model


def widths(steps: Iterable[int]) -> WidthPlan:
    """Others at every timestep, so that every step copies weights."""
    masks = {}
    for number, step in enumerate(steps):
        mask = torch.arange(4) <= torch.tensor([[number], [number + 1]])
        masks[step] = (mask, mask)
    return WidthPlan(masks)


MODELS: dict[str, Callable[[Any, WidthPlan], Any]] = {
    "plain": lambda build, _: on_cuda(DiT, build),
    "masked": lambda build, _: on_cuda(DyDiT, build),
    "static": lambda build, _: Engine(on_cuda(DiT, build)),
    "realised": lambda build, plan: Engine(on_cuda(DyDiT, build), plan),
    "cached": lambda build, _: apply_method(on_cuda(DiT, build), "fora:2"),
}


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("name", MODELS)
def test_a_sampling_step_on_a_gpu_never_waits_for_it(
    build: Callable[..., Any], name: str, sampler: Sampler, scale: float
) -> None:
    diffusion = Diffusion.linear().respaced(4, sampler)
    timesteps, taken = diffusion.timestep_map.flip(0).tolist(), list[int]()

    def watched(steps: Iterable[int]) -> Iterator[int]:
        for step in steps:
            with Watch():
                yield step
            taken.append(step)

    plan = widths(timesteps)
    with fake_cuda():
        model = MODELS[name](build, plan)
        if hasattr(model, "begin_run"):
            model.begin_run(timesteps)

        def network(x: Tensor, t: int, y: Tensor) -> Tensor:
            output = model(x.bfloat16(), t, y)
            assert (output.device.type, output.dtype) == ("cuda", torch.bfloat16)
            return output.float()

        options = {"seed": 0, "scale": scale, "sampler": sampler, "device": "cuda", "track": watched}
        x, _ = generate(network, diffusion, (4, 8, 8), 10, range(2), **options)
    assert x.device.type == "cuda" and taken == [3, 2, 1, 0]


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > 0, 1.0)[x > 0],
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: x[[0, 1]],
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_waits_is_seen(operation: Callable[[Tensor], object]) -> None:
    with fake_cuda(), Watch(), pytest.raises((Wait, DataDependentOutputException, DynamicOutputShapeException)):
        operation(torch.ones(3, device="cuda"))


def test_timesteps_on_a_gpu_and_tokens_that_are_gathered_are_waited_for(build: Callable[..., Any]) -> None:
    plan = widths([500])
    with fake_cuda(), torch.device("cuda"):
        x, t, y = torch.randn(2, 4, 8, 8), torch.full((2,), 500), torch.zeros(2, dtype=torch.int64)
        with pytest.raises(DataDependentOutputException):
            Engine(on_cuda(DyDiT, build), plan)(x, t, y)
        with pytest.raises(DynamicOutputShapeException):
            Engine(on_cuda(DyDiT, build), plan, backend=TorchBlocks())(x, 500, y)


@pytest.mark.parametrize("chosen", [products.TILES["bfloat16"][0], products.LIBRARY], ids=["triton", "library"])
@pytest.mark.parametrize("override", [False, True], ids=["routed", "override"])
def test_a_forward_waits_in_none_of_its_forms(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, override: bool, chosen: Any
) -> None:
    monkeypatch.setattr(triton_blocks, "default_products", lambda _: chosen)
    plan = widths([500])
    with fake_cuda(), torch.device("cuda"), Watch():
        x, y = torch.randn(3, 4, 8, 8), torch.zeros(3, dtype=torch.int64)
        tokens = torch.ones(3, 2, 16, dtype=torch.bool) if override else None
        output = Engine(on_cuda(DyDiT, build), plan, tokens)(x, 500, y)
        assert (output.shape, output.device.type, output.dtype) == ((3, 8, 8, 8), "cuda", torch.bfloat16)
