"""The arrays that say what routing learned, under the names and shapes of `routing.npz`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

BRANCHES = ("conditional", "unconditional")


@dataclass(frozen=True)
class LearnedRouting:
    """What routing learned, in numpy arrays. Each field is a key of `routing.npz`; its annotation says what it holds.

    `timesteps` gives the original timestep of each step of the run; the first axis of the width arrays is the timestep
    itself. All rates are shares of what the complete model has open.
    """

    timesteps: Annotated[NDArray[np.int64], "(S,) original timestep of each step, in the order taken"]
    heads_open: Annotated[Bools, "(T, L, H) whether a head is open at a timestep"]
    channels_open: Annotated[Bools, "(T, L, H) whether a group of MLP channels is open at a timestep"]
    head_rate: Annotated[Floats, "(T, L) open share of heads"]
    channel_rate: Annotated[Floats, "(T, L) open share of channel groups"]
    width_ratio: Annotated[Floats, "(T,) FLOPs ratio of the blocks with these widths and all tokens open"]
    token_map: Annotated[Floats, "(B, S, L, G, G) share of the images whose token at a row and column passes the MLP"]
    token_rate: Annotated[Floats, "(B, S, L) share of tokens that pass the MLP"]
    branches_differ: Annotated[Floats, "(S, L) share of tokens on which the branches decide differently; 0 if B = 1"]
    flops_ratio: Annotated[Floats, "(B, S) FLOPs ratio of the blocks, mean over images"]
    labels: Annotated[NDArray[np.int64], "(N,) labels of the images"]
    image_token_rate: Annotated[Floats, "(N, B) share of tokens that pass the MLP, mean over steps and layers"]
    image_flops_ratio: Annotated[Floats, "(N, B) FLOPs ratio of the blocks, mean over steps"]
    shown_images: Annotated[NDArray[np.uint8], "(M, height, width, channels) the first images"]
    shown_maps: Annotated[Bools, "(M, B, S, L, G, G) whether their tokens pass the MLP"]

    @property
    def branches(self) -> tuple[str, ...]:
        """Names along the axis B."""
        return BRANCHES[: len(self.token_map)]

    @property
    def position_rate(self) -> Floats:
        """Share of a token's MLPs that run, by position: (B, G, G), mean over images, steps and layers."""
        rate: Floats = self.token_map.mean((1, 2), dtype=np.float64)
        return rate


def arrays(learned: LearnedRouting) -> dict[str, Any]:
    """The fields by name."""
    return {field.name: getattr(learned, field.name) for field in dataclasses.fields(learned)}


def meanings() -> dict[str, str]:
    """What each array holds, by name."""
    hints = get_type_hints(LearnedRouting, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(LearnedRouting)}
