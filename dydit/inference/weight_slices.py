"""The weights of the open heads and channel groups (TDW, realised), as products read them, and a cache that keeps them.

Shape letters: L blocks, C hidden size, H heads, h open heads, D head width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from dydit.dit import Attention, Mlp
from dydit.inference.width_plan import OpenIndices

Pack = Callable[[Tensor], Tensor]
"""A weight -> a copy of it in the layout that products read fastest."""

MEMORY_SHARE = 0.5
"""Default bound on the memory of all copied weights, as a share of the model's own."""


@dataclass(frozen=True)
class AttentionWeights:
    """Weights of the open heads: qkv (3 h D, C), proj (C, h D)."""

    heads: int
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor

    @classmethod
    def whole(cls, attention: Attention) -> AttentionWeights:
        """The module's own weights, not copied."""
        qkv, proj = attention.qkv, attention.proj
        return cls(attention.heads, qkv.weight, qkv.bias, proj.weight, proj.bias)

    @classmethod
    def take(cls, attention: Attention, indices: OpenIndices) -> AttentionWeights:
        """Copies of the weights of the open heads."""
        qkv, proj, heads = attention.qkv, attention.proj, attention.heads
        width = qkv.in_features
        rows = _open(qkv.weight.view(3, heads, -1, width), indices).reshape(-1, width)
        bias = _open(qkv.bias.view(3, heads, -1), indices).flatten()
        columns = _open(proj.weight.view(width, heads, -1), indices).reshape(width, -1)
        return cls(len(indices), rows, bias, columns, proj.bias)

    def packed(self, pack: Pack) -> AttentionWeights:
        """The same weights in another layout."""
        return replace(self, qkv=pack(self.qkv), proj=pack(self.proj))

    @property
    def copied_bytes(self) -> int:
        return (self.qkv.numel() + self.proj.numel()) * self.qkv.element_size()


@dataclass(frozen=True)
class MlpWeights:
    """Weights of the open channel groups: fc1 (hidden, C), fc2 (C, hidden)."""

    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor

    @classmethod
    def whole(cls, mlp: Mlp) -> MlpWeights:
        """The module's own weights, not copied."""
        return cls(mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)

    @classmethod
    def take(cls, mlp: Mlp, indices: OpenIndices, groups: int) -> MlpWeights:
        """Copies of the weights of the open channel groups, of which the MLP has `groups` in all."""
        fc1, fc2 = mlp.fc1, mlp.fc2
        width = fc1.in_features
        rows = _open(fc1.weight.view(1, groups, -1, width), indices).reshape(-1, width)
        bias = _open(fc1.bias.view(1, groups, -1), indices).flatten()
        columns = _open(fc2.weight.view(width, groups, -1), indices).reshape(width, -1)
        return cls(rows, bias, columns, fc2.bias)

    def packed(self, pack: Pack) -> MlpWeights:
        """The same weights in another layout."""
        return replace(self, fc1=pack(self.fc1), fc2=pack(self.fc2))

    @property
    def copied_bytes(self) -> int:
        return (self.fc1.numel() + self.fc2.numel()) * self.fc1.element_size()


@dataclass(frozen=True)
class ModulationWeights:
    """What computes a block's six modulations from the condition: weight (6 C, C)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def whole(cls, modulation: nn.Sequential) -> ModulationWeights:
        """The module's own weights, not copied."""
        linear = modulation[1]
        assert isinstance(linear, nn.Linear)
        return cls(linear.weight, linear.bias)

    def packed(self, pack: Pack) -> ModulationWeights:
        """The same weights in another layout."""
        return replace(self, weight=pack(self.weight))


def _open(parts: Tensor, indices: OpenIndices) -> Tensor:
    """Copies of the open parts along the second dimension; by numbers, since a GPU would wait for an index tensor."""
    return torch.stack([parts[:, index] for index in indices], dim=1)


Slices = AttentionWeights | MlpWeights
Weights = TypeVar("Weights", AttentionWeights, MlpWeights, ModulationWeights)
Key = tuple[str, int, OpenIndices]


class SliceCache:
    """Weight slices by block and by what is open; the slices take at most `limit` bytes.

    The least recently used slices are dropped first, but never one of the current forward: the next forward would need
    it again, and everything would be copied anew each time. A slice for which there is no room is copied for one use.

    Where the products have a layout of their own, `pack` copies into it. Then whole weights are copied, too, and kept
    for good, beyond `limit`: up to as much memory as the blocks of the model itself.
    """

    def __init__(self, limit: int, pack: Pack | None = None) -> None:
        self.limit = limit
        self.pack = pack
        self.bytes = 0
        self.misses = 0
        self._forward = 0
        self._entries: OrderedDict[Key, tuple[int, Slices]] = OrderedDict()
        self._whole: dict[tuple[str, int], object] = {}

    def next_forward(self) -> None:
        """Slices used before this call may be dropped for those used after it."""
        self._forward += 1

    def attention(self, block: int, attention: Attention, indices: OpenIndices | None) -> AttentionWeights:
        """Weights of one block's open heads; None: all are open."""
        if indices is None or len(indices) == attention.heads:
            return self._whole_of(("attention", block), AttentionWeights.whole(attention))
        weights = self._get(("attention", block, indices), lambda: AttentionWeights.take(attention, indices))
        assert isinstance(weights, AttentionWeights)
        return weights

    def mlp(self, block: int, mlp: Mlp, indices: OpenIndices | None, groups: int) -> MlpWeights:
        """Weights of the open ones among the `groups` channel groups of one block's MLP; None: all are open."""
        if indices is None or len(indices) == groups:
            return self._whole_of(("mlp", block), MlpWeights.whole(mlp))
        weights = self._get(("mlp", block, indices), lambda: MlpWeights.take(mlp, indices, groups))
        assert isinstance(weights, MlpWeights)
        return weights

    def modulation(self, block: int, modulation: nn.Sequential) -> ModulationWeights:
        """Weights of the layer that computes one block's modulations."""
        return self._whole_of(("modulation", block), ModulationWeights.whole(modulation))

    def _whole_of(self, key: tuple[str, int], weights: Weights) -> Weights:
        if self.pack is None:
            return weights
        if key not in self._whole:
            self._whole[key] = weights.packed(self.pack)
        return cast(Weights, self._whole[key])

    def _get(self, key: Key, take: Callable[[], Slices]) -> Slices:
        if key in self._entries:
            _, weights = self._entries.pop(key)
            self._entries[key] = (self._forward, weights)
            return weights
        weights = take()
        self.misses += 1
        while self._entries and self.bytes + weights.copied_bytes > self.limit:
            oldest = next(iter(self._entries))
            last_used, dropped = self._entries[oldest]
            if last_used == self._forward:
                return weights
            del self._entries[oldest]
            self.bytes -= dropped.copied_bytes
        if weights.copied_bytes <= self.limit:
            weights = weights if self.pack is None else weights.packed(self.pack)
            self.bytes += weights.copied_bytes
            self._entries[key] = (self._forward, weights)
        return weights
