"""How a process computes while something is made or measured: CPU threads, and TF32 on a GPU. Both decide rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def arithmetic(threads: int, tf32: bool) -> Iterator[None]:
    """`threads` CPU threads and, on a GPU, float32 products from TF32 inputs or not; restored afterwards."""
    before, matmul, cudnn = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn
    convolution = cudnn.allow_tf32
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32 = convolution
