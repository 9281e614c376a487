"""A large dense matrix product: how many multiply-adds a device does at best, beside which networks are timed."""

from __future__ import annotations

import torch

from bench.machine.timing import Call
from dydit.inference import cpu_kernels

SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices, by kind of device: large enough that nothing but the multiplication takes time."""


def dense_product(device: torch.device, dtype: torch.dtype) -> tuple[Call, float]:
    """A product of two square matrices, weights transposed as in a linear layer, and its multiply-adds.

    On a CPU it is computed by the same kernels as the engine's products, which are the fastest known there.
    """
    side = SIDE[device.type]
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    if cpu_kernels.serves(left):
        weight = cpu_kernels.packed(right)
        return lambda: cpu_kernels.linear(left, weight, None), float(side) ** 3
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right.t(), out=out), float(side) ** 3
