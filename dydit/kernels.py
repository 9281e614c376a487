"""The token-selective MLP on a CUDA device, without telling the host how many tokens were selected.

`engine.update_selected` gathers with `nonzero`, which stops the host once per layer until the device has caught up.
Here the count stays in device memory and all shapes and grids are static, so that the host runs ahead and a CUDA
graph can hold a whole forward pass. Two ways, always chosen by name:

- "triton": `update_selected` computes the selected tokens only;
- "dense": `update_dense` computes every token with torch alone and keeps the selected results: exact, skips nothing.

Shape letters: N images, T tokens, R = N * T rows, S selected rows, C hidden size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from dydit.engine import span, update_all
from dydit.errors import InputError
from dydit.slices import MlpWeights

Update = Callable[[Tensor, Tensor, MlpWeights, tuple[Tensor, ...]], object]
"""(hidden (N, T, C), chosen bool (N, T), weights, (shift, 1 + scale, gate)) -> anything; updates hidden in place."""


@dataclass(frozen=True)
class Tile:
    """One program's share of a matrix product, and how Triton builds it.

    Args:
        rows: rows of the output tile.
        columns: columns of the output tile.
        depth: length of one step along the summed dimension.
        group: row tiles that sweep the columns together, for reuse in L2.
        warps: warps per program.
        stages: steps of the sum that are in flight.
    """

    rows: int
    columns: int
    depth: int
    group: int
    warps: int
    stages: int


Tiles = tuple[Tile, Tile]
"""For the product with fc1, and for the one with fc2, whose scattering epilogue needs more registers."""

TILES: dict[torch.dtype, tuple[Tiles, ...]] = {
    torch.bfloat16: (
        (Tile(128, 128, 64, group=8, warps=8, stages=3), Tile(128, 128, 64, group=8, warps=8, stages=3)),
        (Tile(128, 256, 64, group=8, warps=8, stages=3), Tile(128, 128, 64, group=8, warps=8, stages=4)),
        (Tile(128, 128, 64, group=8, warps=8, stages=3), Tile(128, 64, 64, group=8, warps=8, stages=4)),
        (Tile(64, 64, 64, group=8, warps=4, stages=4), Tile(64, 64, 64, group=8, warps=4, stages=4)),
    ),
    torch.float32: (
        (Tile(64, 64, 32, group=8, warps=8, stages=3), Tile(64, 64, 32, group=8, warps=8, stages=3)),
        (Tile(128, 64, 32, group=8, warps=8, stages=3), Tile(128, 64, 32, group=8, warps=8, stages=3)),
        (Tile(32, 32, 32, group=8, warps=4, stages=3), Tile(32, 32, 32, group=8, warps=4, stages=3)),
    ),
}
"""Candidates for `tune`: the first is the default, the last serves few rows.

Compiled for compute capability 9.0 they fit its shared memory and keep their sums in registers (up to 16 bytes of
spill a thread in float32, none in bfloat16); they have not been timed on a device.
"""

FEW_ROWS = 2048
"""Up to this many rows R large tiles would leave most of the device idle."""

Shapes = tuple[torch.dtype, int, int, int]
"""What tiles are tuned for: dtype, rows R, hidden channels of the MLP, and C."""

_tuned: dict[Shapes, Tiles] = {}


def update_function(kernels: str) -> Update:
    """The update that a name stands for: "triton" or "dense".

    Raises:
        InputError: an unknown name, or "triton" where Triton is not installed.
    """
    if kernels == "dense":
        return update_dense
    if kernels != "triton":
        raise InputError(f'kernels: "{kernels}" is unknown; choose "triton" or "dense"')
    _device_code()
    return update_selected


def update_dense(hidden: Tensor, chosen: Tensor, weights: MlpWeights, modulation: tuple[Tensor, ...]) -> None:
    """`engine.update_selected` with static shapes on any device: every token is computed, the chosen ones are kept."""
    updated = hidden.clone()
    update_all(updated, weights, modulation)
    hidden.copy_(torch.where(chosen[:, :, None], updated, hidden))


def update_selected(
    hidden: Tensor,
    chosen: Tensor,
    weights: MlpWeights,
    modulation: tuple[Tensor, ...],
    capacity: int = 0,
    tiles: Tiles | None = None,
) -> Tensor:
    """`engine.update_selected` in Triton: exact for any number of chosen tokens, no host synchronisation.

    Args:
        hidden: tokens (N, T, C), contiguous; updated in place.
        chosen: bool (N, T).
        weights: MLP of the open channel groups.
        modulation: shift, 1 + scale and gate, (N, 1, C) each, contiguous along C.
        capacity: rows that the library's own matrix product computes at full speed, whether that many are selected
            or not; only selected rows beyond it go through the Triton product. 0 leaves all to Triton. It changes
            the time, not the result; `capacity_for` suggests one from a count seen before.
        tiles: shapes of the Triton products; by default the tuned ones, else those of `TILES`.

    Returns:
        The number of chosen tokens, int32 (1,), on the device.

    Raises:
        InputError: tensors that the kernels cannot take.
    """
    code = _device_code()
    _check(hidden, weights, modulation)
    shift, scale, gate = (m.squeeze(1) for m in modulation)
    tokens, width = hidden.shape[1:]
    rows = chosen.numel()
    capacity = min(capacity, rows)

    index = torch.empty(rows, dtype=torch.int32, device=hidden.device)
    count = torch.empty(1, dtype=torch.int32, device=hidden.device)
    mask = chosen.contiguous().view(torch.uint8)
    with span("gather"):
        code.compact[(1,)](mask, index, count, rows, TILE=min(4096, _power_of_two(rows)), num_warps=8)

    normed = hidden.new_empty(rows, width)
    sizes = (capacity, tokens, width, shift.stride(0), scale.stride(0))
    with span("norm"):
        code.gather_modulate[(rows,)](
            hidden, index, count, shift, scale, normed, *sizes, BLOCK=_power_of_two(width), num_warps=4
        )
    if capacity:
        # Rows between the count and the capacity are zero, not uninitialised memory: a library's bfloat16 product
        # has been seen to carry a NaN into the row beside it.
        activated = F.gelu(F.linear(normed[:capacity], weights.fc1, weights.fc1_bias), approximate="tanh")
        update = F.linear(activated, weights.fc2, weights.fc2_bias)
        grid = (_whole(capacity, 16), _whole(width, 128))
        where = (hidden, index, gate, count, capacity, tokens, gate.stride(0), width)
        code.scatter[grid](update, *where, ROWS=16, COLUMNS=128, num_warps=4)
    if capacity < rows:
        tiles = tiles or _tiles_for(_shapes(hidden, chosen, weights))
        with span("MLP"):
            _products(code, tiles, hidden, normed, index, count, weights, gate, capacity)
    return count


def capacity_for(count: int, rows: int, margin: float = 0.05) -> int:
    """Rows to reserve where `count` of `rows` were selected before: the margin added, in whole tiles of 128."""
    return min(rows, _whole(round(count * (1 + margin)), 128) * 128)


def tune(
    hidden: Tensor,
    chosen: Tensor,
    weights: MlpWeights,
    modulation: tuple[Tensor, ...],
    measure: Callable[[Callable[[], object]], float] | None = None,
) -> dict[Tiles, float]:
    """Time the candidates of `TILES` on a copy of the tokens and use the fastest for these shapes from now on.

    Tuning happens here and nowhere else: no timed run and no graph capture ever meets it.

    Args:
        hidden: as the next three, as in `update_selected`.
        measure: function -> its time; by default the median of Triton's benchmark, in ms.
    """
    measure = measure or _device_code().median_ms
    arguments = (hidden.clone(), chosen, weights, modulation)
    times = {tiles: measure(partial(update_selected, *arguments, tiles=tiles)) for tiles in TILES[hidden.dtype]}
    _tuned[_shapes(hidden, chosen, weights)] = min(times, key=times.__getitem__)
    return times


def tune_and_update(hidden: Tensor, chosen: Tensor, weights: MlpWeights, modulation: tuple[Tensor, ...]) -> Tensor:
    """`update_selected` with its own tiles, after `tune` for shapes that were not tuned before."""
    if _shapes(hidden, chosen, weights) not in _tuned:
        tune(hidden, chosen, weights, modulation)
    return update_selected(hidden, chosen, weights, modulation)


def _products(
    code: ModuleType,
    tiles: Tiles,
    hidden: Tensor,
    normed: Tensor,
    index: Tensor,
    count: Tensor,
    weights: MlpWeights,
    gate: Tensor,
    first: int,
) -> None:
    """Both Triton products on the selected rows from `first` on."""
    rows, width = normed.shape
    wide, tokens = weights.fc1.shape[0], hidden.shape[1]
    activated = hidden.new_empty(rows, wide)
    for kernel, tile, columns, depth, arguments in (
        (code.linear_gelu, tiles[0], wide, width, (normed, weights.fc1, weights.fc1_bias, activated, count, first)),
        (
            code.linear_scatter, tiles[1], width, wide,
            (activated, weights.fc2, weights.fc2_bias, hidden, index, gate, count, first, tokens, gate.stride(0)),
        ),
    ):  # fmt: skip
        grid = _whole(rows - first, tile.rows) * _whole(columns, tile.columns)
        kernel[(grid,)](
            *arguments, columns, depth,
            ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, GROUP=tile.group,
            WHOLE=depth % tile.depth == 0, WIDEN=_interpreted(), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip


def _check(hidden: Tensor, weights: MlpWeights, modulation: tuple[Tensor, ...]) -> None:
    if not (hidden.is_cuda or _interpreted()):
        raise InputError(f"kernels: the tokens are on {hidden.device}, Triton needs CUDA; use engine.update_selected")
    if hidden.dtype not in TILES:
        raise InputError(f"kernels: no Triton kernel for {hidden.dtype}; use torch.float32 or torch.bfloat16")
    if not (hidden.is_contiguous() and weights.fc1.is_contiguous() and weights.fc2.is_contiguous()):
        raise InputError("kernels: tokens and weights must be contiguous; call .contiguous() on them")
    if any(m.stride(-1) != 1 for m in modulation):
        raise InputError("kernels: the modulation must be contiguous along its channels; call .contiguous() on it")


def _device_code() -> ModuleType:
    """The Triton kernels, imported when first asked for: this file must load where Triton is not installed."""
    try:
        from dydit import triton_kernels
    except ImportError as error:
        raise InputError('kernels: Triton is not installed; pip install triton, or choose kernels="dense"') from error
    return triton_kernels


def _shapes(hidden: Tensor, chosen: Tensor, weights: MlpWeights) -> Shapes:
    wide, width = weights.fc1.shape
    return hidden.dtype, chosen.numel(), wide, width


def _tiles_for(shapes: Shapes) -> Tiles:
    dtype, rows, _, _ = shapes
    candidates = TILES[dtype]
    return _tuned.get(shapes, candidates[-1] if rows <= FEW_ROWS else candidates[0])


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _whole(size: int, tile: int) -> int:
    """Tiles that cover a size."""
    return -(-size // tile)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
