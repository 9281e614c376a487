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


@dataclass(frozen=True)
class AttentionWeights:
    """Weights of the open heads: qkv (3 h D, C), proj (C, h D)."""

    heads: int
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor

    @classmethod
    def take(cls, attention: Attention, mask: Tensor) -> AttentionWeights:
        """Copies of the open slices; views of the whole weights when everything is open."""
        qkv, proj, heads = attention.qkv, attention.proj, attention.heads
        if mask.all():
            return cls(heads, qkv.weight, qkv.bias, proj.weight, proj.bias)
        index = mask.nonzero().squeeze(1).to(qkv.weight.device)
        width = qkv.in_features
        rows = qkv.weight.view(3, heads, -1, width).index_select(1, index).reshape(-1, width)
        bias = qkv.bias.view(3, heads, -1).index_select(1, index).flatten()
        columns = proj.weight.view(width, heads, -1).index_select(1, index).reshape(width, -1)
        return cls(len(index), rows, bias, columns, proj.bias)

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
    def take(cls, mlp: Mlp, mask: Tensor) -> MlpWeights:
        """Copies of the open slices; views of the whole weights when everything is open."""
        fc1, fc2 = mlp.fc1, mlp.fc2
        if mask.all():
            return cls(fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        index = mask.nonzero().squeeze(1).to(fc1.weight.device)
        groups, width = len(mask), fc1.in_features
        rows = fc1.weight.view(groups, -1, width).index_select(0, index).reshape(-1, width)
        bias = fc1.bias.view(groups, -1).index_select(0, index).flatten()
        columns = fc2.weight.view(width, groups, -1).index_select(1, index).reshape(width, -1)
        return cls(rows, bias, columns, fc2.bias)

    @property
    def copied_bytes(self) -> int:
        return (self.fc1.numel() + self.fc2.numel()) * self.fc1.element_size()


Slices = AttentionWeights | MlpWeights


class SliceCache:
    """Weights by (block, mask), their copies bounded to `limit` bytes.

    The least recently used give way, but never to a slice of the same forward: dropping what the next forward needs
    first would copy everything anew each time. What does not fit is copied for one use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.misses = 0
        self._forward = 0
        self._entries: OrderedDict[tuple[str, int, bytes], tuple[int, Slices]] = OrderedDict()

    def next_forward(self) -> None:
        """Slices used before this call may give way to those used after it."""
        self._forward += 1

    def attention(self, index: int, attention: Attention, mask: Tensor) -> AttentionWeights:
        """Slices of one block's attention; the whole weights, uncopied, when everything is open."""
        found = self._get(("attention", index, _key(mask)), mask, lambda: AttentionWeights.take(attention, mask))
        assert isinstance(found, AttentionWeights)
        return found

    def mlp(self, index: int, mlp: Mlp, mask: Tensor) -> MlpWeights:
        """Slices of one block's MLP; the whole weights, uncopied, when everything is open."""
        found = self._get(("mlp", index, _key(mask)), mask, lambda: MlpWeights.take(mlp, mask))
        assert isinstance(found, MlpWeights)
        return found

    def _get(self, key: tuple[str, int, bytes], mask: Tensor, take: Callable[[], Slices]) -> Slices:
        if key in self._entries:
            _, weights = self._entries.pop(key)
            self._entries[key] = (self._forward, weights)
            return weights
        weights = take()
        if mask.all():  # views cost nothing
            return weights
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


def _key(mask: Tensor) -> bytes:
    return bytes(mask.to(torch.uint8).tolist())
