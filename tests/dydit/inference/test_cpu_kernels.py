"""Linear layers and attention of the CPU, beside the same in float64; and freed memory."""

from __future__ import annotations

import ctypes
import platform
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from bench.records.environment import environment_record
from dydit.inference import cpu_kernels

DTYPES = [
    *([torch.float32] if torch.backends.mkldnn.is_available() else []),  # faster or not
    *([torch.bfloat16] if cpu_kernels.serves(torch.empty(0, dtype=torch.bfloat16)) else []),
]


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("activation", ["none", "gelu", "relu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_linear_layer_is_that_of_torch(
    dtype: torch.dtype, activation: Literal["none", "gelu", "relu"], pack: bool
) -> None:
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in ((37, 24), (48, 24), (48,)))
    expected = F.linear(x.double(), weight.double(), bias.double())
    if activation != "none":
        expected = F.gelu(expected, approximate="tanh") if activation == "gelu" else F.relu(expected)
    weight = cpu_kernels.packed(weight) if pack else weight
    assert apart(cpu_kernels.linear(x, weight, bias, activation), expected) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_that_of_torch(dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e20, -1e20, -20.0, 20.0, torch.nan])
    x = torch.cat([3 * torch.randn(4000), ends]).to(dtype)
    expected = F.gelu(x.double(), approximate="tanh")
    found = cpu_kernels.gelu_(x, torch.empty_like(x)).double()
    assert torch.equal(found.isnan(), expected.isnan())
    assert (found - expected)[:-1].abs().max() < 8 * torch.finfo(dtype).eps * expected[:4000].abs().max()


@pytest.mark.parametrize("scores_bytes", [1, cpu_kernels.SCORES_BYTES])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_is_that_of_torch_whatever_is_held_at_once(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, scores_bytes: int
) -> None:
    monkeypatch.setattr(cpu_kernels, "SCORES_BYTES", scores_bytes)
    q, k, v = torch.randn(2, 16, 3, 5, 8).to(dtype).permute(1, 0, 2, 3, 4)[:3]
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double()).transpose(1, 2).reshape(2, 5, 24)
    assert apart(cpu_kernels.attention(q, k, v), expected) < 2 * torch.finfo(dtype).eps


def test_the_gnu_c_library_keeps_it_and_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "_kept", False)
    assert environment_record()["keeps_freed_memory"] is False
    assert cpu_kernels.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    assert environment_record()["keeps_freed_memory"] == cpu_kernels.freed_memory_is_kept()


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "_kept", True)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not cpu_kernels.keep_freed_memory()
    assert not cpu_kernels.freed_memory_is_kept()
