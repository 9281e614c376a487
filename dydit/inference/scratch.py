"""Memory for the intermediates of a forward on the CPU, kept from block to block and from forward to forward."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Scratch:
    """Named buffers that grow to the largest request.

    The C library returns large blocks to the system when they are freed, and the pages of new ones come one fault at
    a time. On a GPU torch's own allocator keeps memory, so there every request is a new tensor.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape, with the dtype and device of `like`; it voids the last of its name."""
        if like.is_cuda:
            return like.new_empty(shape)
        size, key = math.prod(shape), (name, like.dtype)
        if key not in self._buffers or len(self._buffers[key]) < size:
            self._buffers[key] = like.new_empty(size)
        return self._buffers[key][:size].view(shape)

    def release(self) -> None:
        """Give the memory back."""
        self._buffers.clear()
