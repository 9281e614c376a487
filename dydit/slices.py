"""Which widths are open at each timestep, and the weights of the open heads and channel groups (TDW, realised).

Shape letters: L blocks, C hidden size, H heads, h open heads, D head width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dydit.dit import Attention, Mlp
from dydit.dydit import DyDiT, DyDiTBlock
from dydit.errors import InputError
from dydit.routing import Routing

MEMORY_SHARE = 0.5
"""Default bound on all copied weights, as a share of the model's own memory."""

Widths = tuple[Tensor, Tensor]
"""Head and channel-group masks of one timestep, bool (L, H) each, on the CPU."""

Open = tuple[int, ...]
"""Numbers of the open heads, or channel groups, of one block, rising."""


class WidthPlan:
    """Which heads and channel groups are open at every timestep of a run.

    Args:
        widths: original timestep -> masks (L, H) of heads and of channel groups; the first of each is always open.

    Raises:
        InputError: no timestep, or masks that are not two bool (L, H) of one shape with open first columns.
    """

    def __init__(self, widths: dict[int, Widths]) -> None:
        if not widths:
            raise InputError("width plan: no timestep; give those that the run will visit")
        shapes = {tuple(mask.shape) for pair in widths.values() for mask in pair}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise InputError(f"width plan: masks of shapes {sorted(shapes)}; all must share one (blocks, heads)")
        if not all(bool(mask[:, 0].all()) for pair in widths.values() for mask in pair):
            raise InputError("width plan: the first head and channel group are always on; open column 0 of every mask")
        self.widths = {t: (heads.bool().cpu(), channels.bool().cpu()) for t, (heads, channels) in widths.items()}
        self._opened = {t: (_opened(heads), _opened(channels)) for t, (heads, channels) in self.widths.items()}

    @classmethod
    @torch.no_grad()
    def from_routers(cls, model: DyDiT, timesteps: Iterable[int]) -> WidthPlan:
        """Ask the TDW routers of an evaluation-mode model."""
        steps = sorted(set(timesteps))
        device = model.pos_embed.device
        t_emb = model.t_embedder(torch.tensor(steps, device=device))
        blocks = [block for block in model.blocks if isinstance(block, DyDiTBlock)]
        heads = torch.stack([block.attn_rate(t_emb) for block in blocks], dim=1).bool().cpu()
        channels = torch.stack([block.mlp_rate(t_emb) for block in blocks], dim=1).bool().cpu()
        return cls({t: (heads[i], channels[i]) for i, t in enumerate(steps)})

    @classmethod
    def constant(cls, routing: Routing, timesteps: Iterable[int]) -> WidthPlan:
        """The widths of a given routing (those of its first image) at every timestep."""
        return cls({t: (routing.heads[0].bool(), routing.channels[0].bool()) for t in timesteps})

    def check(self, model: DyDiT) -> None:
        """Raise InputError when the plan was made for a model of another depth or head count."""
        shape = tuple(next(iter(self.widths.values()))[0].shape)
        wanted = (model.config.depth, model.config.num_heads)
        if shape != wanted:
            raise InputError(
                f"width plan: made for {shape} (blocks, heads), the model has {wanted}; plan for this model"
            )

    def at(self, timestep: int) -> Widths:
        """Masks of one timestep; InputError when the plan does not hold it."""
        if timestep not in self.widths:
            known = f"{len(self.widths)} timesteps from {min(self.widths)} to {max(self.widths)}"
            raise InputError(f"width plan: made for {known}, the run is at {timestep}; plan for the run's timesteps")
        return self.widths[timestep]

    def opened(self, timestep: int) -> tuple[tuple[Open, ...], tuple[Open, ...]]:
        """The open heads and the open channel groups of every block; InputError as `at`.

        Plain numbers, which are the keys of slices and graphs at every block of every step.
        """
        self.at(timestep)
        return self._opened[timestep]


def _opened(mask: Tensor) -> tuple[Open, ...]:
    return tuple(tuple(unit for unit, on in enumerate(row) if on) for row in mask.tolist())


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
        """The module's own weights, uncopied."""
        qkv, proj = attention.qkv, attention.proj
        return cls(attention.heads, qkv.weight, qkv.bias, proj.weight, proj.bias)

    @classmethod
    def take(cls, attention: Attention, opened: Open) -> AttentionWeights:
        """Copies of the open slices."""
        qkv, proj, heads = attention.qkv, attention.proj, attention.heads
        index = torch.tensor(opened, device=qkv.weight.device)
        width = qkv.in_features
        rows = qkv.weight.view(3, heads, -1, width).index_select(1, index).reshape(-1, width)
        bias = qkv.bias.view(3, heads, -1).index_select(1, index).flatten()
        columns = proj.weight.view(width, heads, -1).index_select(1, index).reshape(width, -1)
        return cls(len(opened), rows, bias, columns, proj.bias)

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
        """The module's own weights, uncopied."""
        return cls(mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)

    @classmethod
    def take(cls, mlp: Mlp, opened: Open, groups: int) -> MlpWeights:
        """Copies of the open slices, of `groups` equal ones."""
        fc1, fc2 = mlp.fc1, mlp.fc2
        index, width = torch.tensor(opened, device=fc1.weight.device), fc1.in_features
        rows = fc1.weight.view(groups, -1, width).index_select(0, index).reshape(-1, width)
        bias = fc1.bias.view(groups, -1).index_select(0, index).flatten()
        columns = fc2.weight.view(width, groups, -1).index_select(1, index).reshape(width, -1)
        return cls(rows, bias, columns, fc2.bias)

    @property
    def copied_bytes(self) -> int:
        return (self.fc1.numel() + self.fc2.numel()) * self.fc1.element_size()


Slices = AttentionWeights | MlpWeights
Key = tuple[str, int, Open]


class SliceCache:
    """Weights by block and what is open, their copies bounded to `limit` bytes.

    The least recently used give way, but never to a slice of the same forward: dropping what the next forward needs
    first would copy everything anew each time. What does not fit is copied for one use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.misses = 0
        self._forward = 0
        self._entries: OrderedDict[Key, tuple[int, Slices]] = OrderedDict()

    def next_forward(self) -> None:
        """Slices used before this call may give way to those used after it."""
        self._forward += 1

    def attention(self, index: int, attention: Attention, opened: Open) -> AttentionWeights:
        """Slices of one block's attention; the whole weights, uncopied, when everything is open."""
        if len(opened) == attention.heads:
            return AttentionWeights.whole(attention)
        found = self._get(("attention", index, opened), lambda: AttentionWeights.take(attention, opened))
        assert isinstance(found, AttentionWeights)
        return found

    def mlp(self, index: int, mlp: Mlp, opened: Open, groups: int) -> MlpWeights:
        """Slices of one block's MLP of `groups` channel groups; the whole weights, uncopied, when all are open."""
        if len(opened) == groups:
            return MlpWeights.whole(mlp)
        found = self._get(("mlp", index, opened), lambda: MlpWeights.take(mlp, opened, groups))
        assert isinstance(found, MlpWeights)
        return found

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
            self.bytes += weights.copied_bytes
            self._entries[key] = (self._forward, weights)
        return weights
