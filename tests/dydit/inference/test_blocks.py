"""The CUDA path: what holds without Triton, and block_cases.py in a process of its own.

Triton decides at import whether kernels are interpreted, so no other test may share a process with the cases.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from dydit import DiT, DyDiT, inference
from dydit.dit import Mlp
from dydit.inference import triton_blocks
from dydit.inference.cuda_graphs import GraphedForward
from dydit.inference.engine import Engine, make_backend
from dydit.inference.torch_blocks import DenseTorchBlocks, Modulation, TorchBlocks
from dydit.inference.weight_slices import MlpWeights
from dydit.inference.width_plan import WidthPlan

Refusal = Callable[..., AbstractContextManager[None]]
ROOT = Path(__file__).parents[3]


def run_cases(**env: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/dydit/inference/block_cases.py"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Deterministic torch, which poisons fresh memory, asks for the workspace setting on a GPU.
    settings = {"PYTHONPATH": path, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | settings | env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_interpreted() -> None:
    run_cases(TRITON_INTERPRET="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to compile the kernels for and run them on")
def test_kernels_compiled() -> None:
    run_cases(TRITON_INTERPRET="0")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_dense_updates_the_selected_tokens_alone(share: float) -> None:
    torch.manual_seed(0)
    weights = MlpWeights.take(Mlp(32, 128), (0, 2, 3), 4)
    modulation = Modulation(*torch.randn(3, 1, 3 * 32).chunk(3, dim=-1))
    hidden = torch.randn(3, 16, 32)
    selected = torch.rand(3, 16) < share
    out, wanted = hidden.clone(), hidden.clone()
    with torch.no_grad():
        DenseTorchBlocks().update_selected(out, selected, weights, modulation)
        TorchBlocks().update_selected(wanted, selected, weights, modulation)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-5)
    assert torch.equal(out[~selected], hidden[~selected])


def test_candidates_are_valid() -> None:
    for dtype, candidates in triton_blocks.TILES.items():
        for tile in (tile for pair in candidates for tile in pair):
            assert all(size & (size - 1) == 0 for size in (tile.rows, tile.columns, tile.depth, tile.warps))
            stage = (tile.rows + tile.columns) * tile.depth * dtype.itemsize
            assert stage * tile.stages <= 227 * 1024


def test_names_are_explicit(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    with refusal('"fast"', '"torch"', '"dense"', '"triton"'):
        make_backend("fast", cpu)
    monkeypatch.setitem(sys.modules, "dydit.inference.triton_kernels", None)
    monkeypatch.delattr(inference, "triton_kernels", raising=False)
    with refusal("Triton is not installed", '"dense"'):
        make_backend("triton", cpu)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_wants_a_gpu(refusal: Refusal) -> None:
    with refusal("on cpu", '"torch"'):
        make_backend("triton", torch.device("cpu"))


class Launches:
    """In place of the device code: every kernel may be launched with anything and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return collections.defaultdict(lambda: lambda *_, **__: None)


@pytest.fixture
def bfloat16() -> Iterator[None]:
    """Modules are made in it: fake ones cannot change their dtype."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(
    "products", [triton_blocks.TILES[torch.bfloat16][0], triton_blocks.LIBRARY], ids=["triton", "library"]
)
@pytest.mark.parametrize("override", [False, True], ids=["routed", "override"])
@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_a_forward_on_cuda_asks_the_host_for_nothing(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: type[DiT], override: bool, products: Any
) -> None:
    """Fake tensors have devices and shapes and no values: a forward that reads one, or mixes devices, raises."""
    monkeypatch.setattr(triton_blocks, "_device_code", Launches)
    monkeypatch.setattr(triton_blocks, "default_products", lambda _: products)
    plan = WidthPlan.from_routers(build(), [500]) if kind is DyDiT else None
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            model = kind(**build().config.kwargs()).eval()
            model.pos_embed = model.pos_embed.bfloat16()
            x, t, y = torch.randn(3, 4, 8, 8), torch.full((3,), 500), torch.zeros(3).long()
            tokens = torch.ones(3, 2, 16, dtype=torch.bool) if override and kind is DyDiT else None
        output = Engine(model, plan).run(x, t, y, 500, tokens)
        assert (output.shape, output.device.type, output.dtype) == ((3, 8, 8, 8), "cuda", torch.bfloat16)


def test_a_fake_forward_that_gathers_does_ask(build: Callable[..., Any]) -> None:
    plan = WidthPlan.from_routers(build(), [500])
    with FakeTensorMode(), torch.no_grad(), pytest.raises(DynamicOutputShapeException):
        model = build(seed=1)
        Engine(model, plan, backend="torch").run(
            torch.randn(1, 4, 8, 8), torch.zeros(1).long(), torch.zeros(1).long(), 500, None
        )


def test_graphs_want_a_gpu(build: Callable[..., Any], refusal: Refusal) -> None:
    with refusal("on cpu", "CUDA"):
        GraphedForward(Engine(build(DiT)))
