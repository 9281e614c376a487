"""Which heads and channel groups are open at each timestep, read from the routers once or given as masks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dydit.dydit import DyDiT, DyDiTBlock
from dydit.errors import InputError
from dydit.routing import Routing

Widths = tuple[Tensor, Tensor]
"""Head and channel-group masks of one timestep, bool (L, H) each, on the CPU."""

OpenIndices = tuple[int, ...]
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

    def opened(self, timestep: int) -> tuple[tuple[OpenIndices, ...], tuple[OpenIndices, ...]]:
        """The open heads and the open channel groups of every block; InputError as `at`.

        Plain numbers, which are the keys of slices and graphs at every block of every step.
        """
        self.at(timestep)
        return self._opened[timestep]


def _opened(mask: Tensor) -> tuple[OpenIndices, ...]:
    return tuple(tuple(unit for unit, on in enumerate(row) if on) for row in mask.tolist())
