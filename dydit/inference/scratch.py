"""Memory for the intermediates of a forward on the CPU, reused by the next block and the next forward."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Scratch:
    """Named buffers that grow to the largest request.

    The C library returns large blocks to the system when they are freed, and each page of a new block costs a page
    fault. On a GPU torch's own allocator keeps memory, so there every request is a new tensor.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape, with the dtype and device of `like`.

        It shares memory with the previous tensor of the same name, whose content is lost.
        """
        if like.is_cuda:
            return like.new_empty(shape)
        size, key = math.prod(shape), (name, like.dtype)
        if key not in self._buffers or len(self._buffers[key]) < size:
            self._buffers[key] = like.new_empty(size)
        return self._buffers[key][:size].view(shape)

    def release(self) -> None:
        """Free the memory of all buffers."""
        self._buffers.clear()
