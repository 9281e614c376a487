"""Token merging (ToMe: Bolya et al. 2023, arXiv 2210.09461; for diffusion: Bolya and Hoffman 2023, arXiv 2303.17604).

In every block a share of the tokens is merged into others before attention and before the MLP, and their updates are
copied back to all merged tokens after it. Who merges with whom is decided once per block, by bipartite matching: the
upper left token of every 2 x 2 cell is a destination, all others are sources, and the sources that are most similar
to a destination (cosine of the block's input) are averaged into it.

Shape letters: N images, T tokens, S sources, D destinations, r merged tokens, C hidden size.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dydit.baselines.method import StepBlocks
from dydit.config import DiTConfig
from dydit.errors import InputError
from dydit.inference.torch_blocks import Modulation
from dydit.inference.weight_slices import AttentionWeights, MlpWeights


class Matching:
    """Which of the tokens (N, T, C) merge, `count` of them per image."""

    def __init__(self, tokens: Tensor, count: int) -> None:
        self.sources, self.destinations = (index.to(tokens.device) for index in _sides(tokens.shape[1]))
        directions = tokens / tokens.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        scores = directions[:, self.sources] @ directions[:, self.destinations].transpose(1, 2)  # (N, S, D)
        best, nearest = scores.max(-1)
        order = best.argsort(dim=-1, descending=True, stable=True)
        self._merged, self._kept = order[:, :count], order[:, count:]  # places among the sources
        self._into = nearest.gather(1, self._merged)  # places among the destinations

    def merge(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, T - r, C): the sources that stay, then the destinations, averaged with what merges there."""
        sources, destinations = x[:, self.sources], x[:, self.destinations]
        moved = sources.gather(1, _wide(self._merged, x))
        destinations = destinations.scatter_reduce(1, _wide(self._into, x), moved, "mean")
        return torch.cat([sources.gather(1, _wide(self._kept, x)), destinations], dim=1)

    def unmerge(self, x: Tensor) -> Tensor:
        """(N, T - r, C) -> (N, T, C): every merged token gets the value of its destination."""
        kept, destinations = torch.split(x, [self._kept.shape[1], len(self.destinations)], dim=1)
        sources = x.new_empty(len(x), len(self.sources), x.shape[2])
        sources.scatter_(1, _wide(self._kept, x), kept)
        sources.scatter_(1, _wide(self._merged, x), destinations.gather(1, _wide(self._into, x)))
        whole = x.new_empty(len(x), len(self.sources) + len(self.destinations), x.shape[2])
        whole[:, self.sources], whole[:, self.destinations] = sources, destinations
        return whole


class MergingBlocks(StepBlocks):
    """Blocks that merge `ratio` of the tokens, rounded down to whole ones; at 0 nothing is matched."""

    takes_routers = False

    def __init__(self, ratio: float) -> None:
        super().__init__()
        if not 0.0 <= ratio < 1.0:
            raise InputError(f"tome ratio {ratio}: give the share of tokens that are merged, from 0 to below 1")
        self.ratio = ratio
        self._matching: Matching | None = None

    def merged(self, config: DiTConfig) -> int:
        """Tokens of an image that are merged away in each block."""
        return _count(self.ratio, config.tokens)

    def check(self, config: DiTConfig) -> None:
        most = len(_sides(config.tokens)[0])
        if self.merged(config) > most:
            raise InputError(
                f"tome ratio {self.ratio}: merges {self.merged(config)} of {config.tokens} tokens, of which at most "
                f"{most} can be; choose a ratio up to {most / config.tokens:.3g}"
            )

    def attend(self, hidden: Tensor, weights: AttentionWeights, modulation: Modulation) -> None:
        count = _count(self.ratio, hidden.shape[1])
        self._matching = Matching(hidden, count) if count else None
        super().attend(hidden, weights, modulation)

    def attention(self, x: Tensor, weights: AttentionWeights) -> Tensor:
        if self._matching is None:
            return super().attention(x, weights)
        return self._matching.unmerge(super().attention(self._matching.merge(x), weights))

    def mlp(self, x: Tensor, weights: MlpWeights) -> Tensor:
        if self._matching is None:
            return super().mlp(x, weights)
        return self._matching.unmerge(super().mlp(self._matching.merge(x), weights))

    def branch_macs(self, config: DiTConfig, steps: int) -> float:
        count = self.merged(config)
        if not count:
            return super().branch_macs(config, steps)
        tokens, width, inner = config.tokens - count, config.hidden_size, config.attention_width
        sources, destinations = (len(side) for side in _sides(config.tokens))
        attention = 4 * tokens * width * inner + 2 * tokens**2 * inner
        return attention + 2 * tokens * width * config.mlp_hidden + sources * destinations * width


def _count(ratio: float, tokens: int) -> int:
    return int(ratio * tokens + 1e-6)  # 0.7 of 10 tokens are 7, though 0.7 * 10 may be a little less


@functools.cache
def _sides(tokens: int) -> tuple[Tensor, Tensor]:
    """Indices of the sources (S,) and of the destinations (D,) of a square grid, on the CPU."""
    grid = round(tokens**0.5)
    cells = torch.zeros(grid, grid, dtype=torch.bool, device="cpu")
    cells[::2, ::2] = True
    return (~cells).flatten().nonzero().squeeze(1), cells.flatten().nonzero().squeeze(1)


def _wide(index: Tensor, like: Tensor) -> Tensor:
    """(N, K) -> (N, K, C)."""
    return index[:, :, None].expand(-1, -1, like.shape[2])
