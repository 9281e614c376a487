"""How a process computes: number of CPU threads, and TF32 on a GPU. Rounding depends on both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from bench.machine import devices
from dydit import InputError


def check_arithmetic(device: str, dtype: torch.dtype, tf32: bool) -> None:
    """Check the device, dtype and TF32 setting of a run on this machine.

    Raises:
        InputError: the device is neither `cpu` nor `cuda`, this machine lacks it or the dtype, or TF32 is set on a CPU.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"device {device!r}: choose cpu or cuda (CUDA_VISIBLE_DEVICES picks among GPUs)")
    devices.check_device(device, dtype)
    if tf32 and device == "cpu":
        raise InputError("tf32: a CPU has no TF32; leave it out, or use --device cuda")


def arithmetic_name(dtype: str, tf32: bool) -> str:
    """What tables call the dtype of a network: its option's name, or `tf32` where float32 products take TF32 inputs."""
    return "tf32" if tf32 and dtype == "fp32" else dtype


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Inside this context torch uses `count` CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def arithmetic(threads: int, tf32: bool) -> Iterator[None]:
    """Inside this context torch uses `threads` CPU threads and, with `tf32`, TF32 for float32 products on a GPU."""
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
