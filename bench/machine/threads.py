"""How a process computes while something is made or measured: CPU threads, and TF32 on a GPU. Both decide rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from bench.machine import devices
from dydit import InputError


def check_arithmetic(device: str, dtype: torch.dtype, tf32: bool) -> None:
    """Raise InputError: a device other than `cpu` and `cuda`, one or a dtype not of this machine, or TF32 on a CPU."""
    if device not in ("cpu", "cuda"):
        raise InputError(f"device {device!r}: choose cpu or cuda (CUDA_VISIBLE_DEVICES picks among GPUs)")
    devices.check_device(device, dtype)
    if tf32 and device == "cpu":
        raise InputError("tf32: a CPU has no TF32; leave it out, or use --device cuda")


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """`count` CPU threads, restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def arithmetic(threads: int, tf32: bool) -> Iterator[None]:
    """`threads` CPU threads and, on a GPU, float32 products from TF32 inputs or not; restored afterwards."""
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    convolution = cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn.allow_tf32 = tf32
    try:
        with cpu_threads(threads):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = convolution
