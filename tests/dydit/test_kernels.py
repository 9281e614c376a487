"""The CUDA path: what holds without Triton, and kernel_cases.py in a process of its own.

Triton decides at import whether kernels are interpreted, so no other test may share a process with the cases.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import dydit
from dydit import DiT, engine, kernels
from dydit.dit import Mlp
from dydit.engine import Engine
from dydit.graphs import GraphedForward
from dydit.slices import MlpWeights

Refusal = Callable[..., AbstractContextManager[None]]
ROOT = Path(__file__).parents[2]


def run_cases(**env: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/dydit/kernel_cases.py"]
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
def test_dense_keeps_the_selected(share: float) -> None:
    torch.manual_seed(0)
    weights = MlpWeights.take(Mlp(32, 128), torch.tensor([True, False, True, True]))
    modulation = torch.randn(3, 1, 3 * 32).chunk(3, dim=-1)
    hidden = torch.randn(3, 16, 32)
    chosen = torch.rand(3, 16) < share
    out, wanted = hidden.clone(), hidden.clone()
    with torch.no_grad():
        kernels.update_function("dense")(out, chosen, weights, modulation)
        engine.update_selected(wanted, chosen, weights, modulation)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-5)
    assert torch.equal(out[~chosen], hidden[~chosen])


@pytest.mark.parametrize(("count", "reserved"), [(0, 0), (1, 128), (1000, 1152), (4000, 4096)])
def test_capacity_is_whole_tiles_with_a_margin(count: int, reserved: int) -> None:
    assert kernels.capacity_for(count, rows=4096) == reserved


def test_candidates_are_valid() -> None:
    for dtype, candidates in kernels.TILES.items():
        for tile in (tile for pair in candidates for tile in pair):
            assert all(size & (size - 1) == 0 for size in (tile.rows, tile.columns, tile.depth, tile.warps))
            stage = (tile.rows + tile.columns) * tile.depth * dtype.itemsize
            assert stage * tile.stages <= 227 * 1024


def test_names_are_explicit(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusal('"fast"', '"triton"', '"dense"'):
        kernels.update_function("fast")
    monkeypatch.setitem(sys.modules, "dydit.triton_kernels", None)
    monkeypatch.delattr(dydit, "triton_kernels", raising=False)
    with refusal("Triton is not installed", 'kernels="dense"'):
        kernels.update_function("triton")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_wants_a_gpu(refusal: Refusal) -> None:
    weights = MlpWeights.take(Mlp(32, 128), torch.ones(4, dtype=torch.bool))
    modulation = torch.randn(1, 1, 96).chunk(3, dim=-1)
    with refusal("on cpu", "engine.update_selected"):
        kernels.update_selected(torch.randn(1, 4, 32), torch.ones(1, 4).bool(), weights, modulation)


def test_graphs_want_a_gpu(build: Callable[..., Any], refusal: Refusal) -> None:
    with refusal("on cpu", "CUDA"):
        GraphedForward(Engine(build(DiT)))
