"""Which heads and channel groups are open at each timestep: decided once by the routers, or taken from masks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dydit.config import TIMESTEPS
from dydit.dydit import DyDiT, DyDiTBlock
from dydit.errors import InputError
from dydit.routing import Routing

Widths = tuple[Tensor, Tensor]
"""Head and channel-group masks of one timestep, bool (L, H) each, on the CPU."""

OpenIndices = tuple[int, ...]
"""Indices of one block's open heads, or of its open channel groups, ascending."""


class WidthPlan:
    """Which heads and channel groups are open at every timestep of a run.

    Args:
        widths: original timestep -> masks (L, H) of heads and of channel groups; the first of each is always open.

    Raises:
        InputError: there is no timestep, or the masks are not all (L, H) of one shape with an open first column.
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
        self._open = {t: (_open_indices(masks[0]), _open_indices(masks[1])) for t, masks in self.widths.items()}

    @classmethod
    @torch.no_grad()
    def from_routers(cls, model: DyDiT, timesteps: Iterable[int]) -> WidthPlan:
        """The plan that the TDW routers of a model in evaluation mode decide.

        Raises:
            InputError: no DyDiT, one in training mode, timesteps that are none, or a router that returns NaN.
        """
        if not isinstance(model, DyDiT):
            raise InputError(f"width plan: {type(model).__name__} has no routers; give a DyDiT, without wrappers")
        if model.training:
            raise InputError("width plan: the model is in training mode, where gates are random; call model.eval()")
        steps = sorted(set(timesteps))
        known = f"original timesteps 0 to {TIMESTEPS - 1}"
        if not steps or steps[0] < 0 or steps[-1] >= TIMESTEPS:
            raise InputError(f"width plan: timesteps {steps[:1]} to {steps[-1:]}; give some of the {known}")
        device = model.pos_embed.device
        t_emb = model.t_embedder(torch.tensor(steps, device=device))
        blocks = [block for block in model.blocks if isinstance(block, DyDiTBlock)]
        heads = torch.stack([block.attn_rate(t_emb) for block in blocks], dim=1).cpu()
        channels = torch.stack([block.mlp_rate(t_emb) for block in blocks], dim=1).cpu()
        for name, masks in (("attn_rate", heads), ("mlp_rate", channels)):
            if broken := masks.isnan().any(2).nonzero().tolist():
                step, layer = broken[0]
                raise InputError(
                    f"width plan: the router blocks.{layer}.{name} returns NaN at timestep {steps[step]}; its weights "
                    "or the timestep embedding are too large for the data type"
                )
        return cls({t: (heads[i].bool(), channels[i].bool()) for i, t in enumerate(steps)})

    @classmethod
    def constant(cls, routing: Routing, timesteps: Iterable[int]) -> WidthPlan:
        """The widths of a routing, those of its first image, at every timestep."""
        return cls({t: (routing.heads[0].bool(), routing.channels[0].bool()) for t in timesteps})

    def check(self, model: DyDiT) -> None:
        """Raise InputError when the plan was made for another number of blocks or heads than the model has."""
        shape = tuple(next(iter(self.widths.values()))[0].shape)
        wanted = (model.config.depth, model.config.num_heads)
        if shape != wanted:
            raise InputError(
                f"width plan: made for {shape} (blocks, heads), the model has {wanted}; plan for this model"
            )

    def at(self, timestep: int) -> Widths:
        """Masks of one timestep.

        Raises:
            InputError: the plan was made for other timesteps.
        """
        if timestep not in self.widths:
            known = f"{len(self.widths)} timesteps from {min(self.widths)} to {max(self.widths)}"
            raise InputError(f"width plan: made for {known}, the run is at {timestep}; plan for the run's timesteps")
        return self.widths[timestep]

    def open_indices(self, timestep: int) -> tuple[tuple[OpenIndices, ...], tuple[OpenIndices, ...]]:
        """The open heads and the open channel groups of every block, as plain numbers: keys for slices and graphs.

        Raises:
            InputError: as `at`.
        """
        self.at(timestep)
        return self._open[timestep]

    def with_every_width(self) -> list[int]:
        """Timesteps at which, together, every number of open channel groups of the plan occurs."""
        seen, chosen = set[int](), list[int]()
        for timestep, (_, channels) in self._open.items():
            widths = {len(indices) for indices in channels}
            if not widths <= seen:
                chosen.append(timestep)
                seen |= widths
        return chosen


def _open_indices(mask: Tensor) -> tuple[OpenIndices, ...]:
    """Per block, from a mask (L, H)."""
    return tuple(tuple(index for index, is_open in enumerate(row) if is_open) for row in mask.tolist())
