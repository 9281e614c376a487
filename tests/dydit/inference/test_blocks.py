"""The CUDA path: what holds without Triton, and block_cases.py in a process of its own.

Triton decides at import whether kernels are interpreted, so no other test may share a process with the cases.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dydit import DiT, inference
from dydit.inference import engine as engine_module
from dydit.inference import products, triton_blocks
from dydit.inference.cuda_graphs import GraphedForward
from dydit.inference.engine import Engine, default_blocks
from dydit.inference.torch_blocks import Modulation, TorchBlocks
from dydit.inference.triton_blocks import SelectedTokens, TritonBlocks
from dydit.inference.weight_slices import MlpWeights

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


def test_candidates_are_valid() -> None:
    for arithmetic, candidates in products.TILES.items():
        for tile in (tile for pair in candidates for tile in pair):
            assert all(size & (size - 1) == 0 for size in (tile.rows, tile.columns, tile.depth, tile.warps))
            stage = (tile.rows + tile.columns) * tile.depth * (2 if arithmetic == "bfloat16" else 4)
            assert stage * tile.stages <= 227 * 1024


def test_without_triton_torch_computes_on_a_gpu_and_one_line_says_so(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: Refusal
) -> None:
    monkeypatch.setitem(sys.modules, "dydit.inference.triton_kernels", None)
    monkeypatch.delattr(inference, "triton_kernels", raising=False)
    engine_module._tell_once.cache_clear()
    gpu = torch.device("cuda")
    assert type(default_blocks(gpu)) is type(default_blocks(gpu)) is TorchBlocks
    (line,) = caplog.messages
    assert "pip install triton" in line and "torch alone computes" in line
    with refusal("Triton cannot be used", "pip install triton"):
        TritonBlocks(gpu)
    assert default_blocks(gpu).ran_in(torch.float32, gpu)["MLP of selected tokens"].startswith("torch")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_wants_a_gpu(refusal: Refusal) -> None:
    with refusal("on cpu", "need CUDA"):
        TritonBlocks(torch.device("cpu"))


def test_what_tuning_chose_is_adopted_elsewhere(monkeypatch: pytest.MonkeyPatch, refusal: Refusal) -> None:
    shapes = products.Shapes("tf32", 512, 96, 48), products.Shapes("bfloat16", 512, 96, 48)
    chosen = {shapes[0]: products.TILES["tf32"][1], shapes[1]: products.LIBRARY}
    monkeypatch.setattr(products, "_tuned", dict(chosen))
    written = json.loads(json.dumps(products.tuned_products()))
    monkeypatch.setattr(products, "_tuned", {})
    products.adopt_products(written)
    assert products._tuned == chosen
    for entry in ({"rows": 1}, written[0] | {"products": "fast"}, written[0] | {"products": [{"rows": 16}] * 2}):
        with refusal("tuned products", "tune again"):
            products.adopt_products([entry])


@pytest.mark.parametrize(("setting", "precision", "name"), [("high", "tf32", "tf32"), ("highest", "ieee", "float32")])
def test_fused_products_take_tf32_where_torchs_own_do(
    monkeypatch: pytest.MonkeyPatch, setting: str, precision: str, name: str
) -> None:
    launches: list[dict[str, Any]] = []

    class Recorder:
        def __getattr__(self, _: str) -> Any:
            return collections.defaultdict(lambda: lambda *_, **flags: launches.append(flags))

    monkeypatch.setattr(triton_blocks, "_device_code", Recorder)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        with FakeTensorMode(), torch.device("cuda"):
            hidden, blocks = torch.randn(1, 16, 32), TritonBlocks(torch.device("cuda"))
            weights = MlpWeights(torch.randn(96, 32), torch.randn(96), torch.randn(32, 96), torch.randn(32))
            selected = SelectedTokens(torch.zeros(16).int(), torch.zeros(1).int())
            blocks.update_selected(hidden, selected, weights, Modulation(*torch.randn(3, 1, 1, 32)))
            said = blocks.ran_in(torch.float32, hidden.device)
    finally:
        torch.set_float32_matmul_precision(before)
    assert [flags["PRECISION"] for flags in launches if "PRECISION" in flags] == [precision] * 2
    assert said["products"] == f"torch, {name}" and said["MLP of selected tokens"].startswith(f"Triton, {name}")


def test_graphs_want_a_gpu(build: Callable[..., Any], refusal: Refusal) -> None:
    with refusal("on cpu", "CUDA"):
        GraphedForward(Engine(build(DiT)))
