"""The parts of a block in fused Triton kernels, without telling the host how many tokens were chosen.

A gather with `nonzero` stops the host once per layer until the device has caught up. Here the count stays in device
memory and all shapes and grids are static, so that the host runs ahead and a CUDA graph can hold a whole forward.
The MLP's two products over the chosen tokens are Triton's with GELU and scatter fused into them, or the library's
grouped product, which reads its row count on the device as well; `Engine.tune` times them and keeps the fastest.

Shape letters: N images, T tokens, R = N * T rows, S chosen rows, C hidden size.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydit.errors import InputError
from dydit.inference.spans import span
from dydit.inference.torch_blocks import Kernels, Modulation
from dydit.inference.weight_slices import MlpWeights
from dydit.routing import TokenRouter


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
"""The first is the default, the last serves few rows.

Compiled for compute capability 9.0 they fit its shared memory and keep their sums in registers (up to 16 bytes of
spill a thread in float32, none in bfloat16); they have not been timed on a device.
"""

LIBRARY = "torch.nn.functional.grouped_mm"
Products = Tiles | str
"""Tiles of Triton's products, or `LIBRARY`."""

FEW_ROWS = 2048
"""Up to this many rows R large tiles would leave most of the device idle."""

Shapes = tuple[torch.dtype, int, int, int]
"""What products are tuned for: dtype, rows R, hidden channels of the MLP, and C."""

_tuned: dict[Shapes, Products] = {}


@dataclass(frozen=True)
class Chosen:
    """Chosen tokens on the device: their positions in the first `count` (int32 (1,)) entries of `index`, int32 (R,).

    The order differs from run to run, which changes no result: every row is computed alike.
    """

    index: Tensor
    count: Tensor


class FusedKernels(Kernels):
    """The parts of a block on a CUDA device; tokens must be contiguous float32 or bfloat16.

    Raises:
        InputError: Triton is not installed, the device is not CUDA (and Triton does not interpret), or tensors that
            the kernels cannot take.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._code = _device_code()
        self._tuning = False
        if not (device.type == "cuda" or _interpreted()):
            raise InputError(f'kernels: the model is on {device}, "triton" needs CUDA; choose "torch"')

    def choose(self, hidden: Tensor, router: nn.Module, given: Tensor | None) -> Chosen:
        features = last = None
        if type(router) is TokenRouter:
            first, _, last = router.mlp_head
            assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
            # Up to its ReLU by the library; all the rest of the router and the compaction in one kernel.
            features = F.linear(hidden, first.weight, first.bias)
        elif given is None:
            given = router(hidden).bool()
        if given is not None and given.stride(-1) != 1:
            given = given.contiguous()
        n, tokens, _ = hidden.shape
        rows = n * tokens
        index = torch.empty(rows, dtype=torch.int32, device=hidden.device)
        count = torch.zeros(1, dtype=torch.int32, device=hidden.device)
        width = 1 if features is None else features.shape[-1]
        self._code.choose[(_whole(rows, 64),)](
            features, None if last is None else last.weight, None if last is None else last.bias,
            None if given is None else given.view(torch.uint8), index, count, rows, width, tokens,
            None if given is None else given.stride(0),
            ROWS=64, WIDTH=_power_of_two(width), ROUTED=features is not None, GIVEN=given is not None, num_warps=4,
        )  # fmt: skip
        return Chosen(index, count)

    def update_chosen(self, hidden: Tensor, chosen: Chosen, weights: MlpWeights, modulation: Modulation) -> None:
        _check(hidden, weights, modulation)
        shapes = _shapes(hidden, weights)
        if self._tuning and shapes not in _tuned:
            _tuned[shapes] = self._fastest(hidden, chosen, weights, modulation)
        self.update_with(hidden, chosen, weights, modulation, _tuned.get(shapes) or default_products(shapes))

    def modulated(self, hidden: Tensor, modulation: Modulation) -> Tensor:
        return self._modulated(hidden, modulation, None).view_as(hidden)

    def add_gated(self, hidden: Tensor, update: Tensor, gate: Tensor) -> None:
        self._add_gated(hidden, update, None, gate, None)

    @contextlib.contextmanager
    def tuning(self) -> Iterator[None]:
        """Inside, the products of every new shape are timed, all candidates; no timed run and no capture meets it."""
        self._tuning = True
        try:
            yield
        finally:
            self._tuning = False

    def _fastest(self, hidden: Tensor, chosen: Chosen, weights: MlpWeights, modulation: Modulation) -> Products:
        """The candidate of the least time; one that this device cannot run (registers, shared memory) drops out."""
        scratch, times, refused = hidden.clone(), dict[Products, float](), list[Exception]()
        for products in candidates(hidden.dtype, hidden.device):
            update = partial(self.update_with, scratch, chosen, weights, modulation, products)
            try:
                times[products] = self._code.median_ms(update)
            except (RuntimeError, self._code.OutOfResources) as error:
                refused.append(error)
        if not times:
            raise refused[0]
        return min(times, key=times.__getitem__)

    def update_with(
        self, hidden: Tensor, chosen: Chosen, weights: MlpWeights, modulation: Modulation, products: Products
    ) -> None:
        """`update_chosen` by these products."""
        with span("norm"):
            normed = self._modulated(hidden, modulation, chosen)
        with span("MLP"):
            multiply = self._by_library if products == LIBRARY else self._by_tiles
            multiply(hidden, normed, chosen, weights, modulation.gate, products)

    def _by_library(
        self, hidden: Tensor, normed: Tensor, chosen: Chosen, weights: MlpWeights, gate: Tensor, _: Products
    ) -> None:
        activated = F.grouped_mm(normed, weights.fc1.t()[None], offs=chosen.count)
        rows, wide = activated.shape
        grid = (_whole(rows, 16), _whole(wide, 128))
        self._code.bias_gelu[grid](activated, weights.fc1_bias, chosen.count, wide, ROWS=16, COLUMNS=128, num_warps=4)
        update = F.grouped_mm(activated, weights.fc2.t()[None], offs=chosen.count)
        self._add_gated(hidden, update, weights.fc2_bias, gate, chosen)

    def _by_tiles(
        self, hidden: Tensor, normed: Tensor, chosen: Chosen, weights: MlpWeights, gate: Tensor, tiles: Products
    ) -> None:
        rows, width = normed.shape
        wide, tokens = weights.fc1.shape[0], hidden.shape[1]
        index, count, gate = chosen.index, chosen.count, gate.squeeze(1)
        activated = hidden.new_empty(rows, wide)
        fc1 = (normed, weights.fc1, weights.fc1_bias, activated, count)
        fc2 = (activated, weights.fc2, weights.fc2_bias, hidden, index, gate, count, tokens, gate.stride(0))
        assert not isinstance(tiles, str)
        for kernel, tile, columns, depth, arguments in (
            (self._code.linear_gelu, tiles[0], wide, width, fc1),
            (self._code.linear_scatter, tiles[1], width, wide, fc2),
        ):
            grid = _whole(rows, tile.rows) * _whole(columns, tile.columns)
            kernel[(grid,)](
                *arguments, columns, depth,
                ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, GROUP=tile.group,
                WHOLE=depth % tile.depth == 0, WIDEN=_interpreted(), num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip

    def _modulated(self, hidden: Tensor, modulation: Modulation, chosen: Chosen | None) -> Tensor:
        """(R, C): row r is the token at r, or the r-th chosen one; rows beyond the chosen are not written."""
        shift, scale = modulation.shift.squeeze(1), modulation.scale.squeeze(1)
        n, tokens, width = hidden.shape
        out = hidden.new_empty(n * tokens, width)
        where = (None, None) if chosen is None else (chosen.index, chosen.count)
        self._code.modulate[(n * tokens,)](
            hidden, *where, shift, scale, out, tokens, width, shift.stride(0), scale.stride(0),
            BLOCK=_power_of_two(width), CHOSEN=chosen is not None, num_warps=4,
        )  # fmt: skip
        return out

    def _add_gated(
        self, hidden: Tensor, update: Tensor, bias: Tensor | None, gate: Tensor, chosen: Chosen | None
    ) -> None:
        """hidden += gate * (update + bias) for every token, or the r-th row of `update` to the r-th chosen one."""
        n, tokens, width = hidden.shape
        where = (None, None) if chosen is None else (chosen.index, chosen.count)
        self._code.add_gated[(n * tokens,)](
            update, bias, hidden, *where, gate, tokens, gate.stride(0), width,
            BLOCK=_power_of_two(width), CHOSEN=chosen is not None, BIASED=bias is not None, num_warps=4,
        )  # fmt: skip


def candidates(dtype: torch.dtype, device: torch.device) -> tuple[Products, ...]:
    """What `Engine.tune` times; the library's grouped product only where it has a kernel of its own."""
    grouped = dtype == torch.bfloat16 and hasattr(F, "grouped_mm") and device.type == "cuda"
    if grouped and torch.cuda.get_device_capability(device) >= (9, 0):
        return (*TILES[dtype], LIBRARY)
    return TILES[dtype]


def default_products(shapes: Shapes) -> Tiles:
    """Tiles where nothing was tuned."""
    dtype, rows, _, _ = shapes
    return TILES[dtype][-1 if rows <= FEW_ROWS else 0]


def _check(hidden: Tensor, weights: MlpWeights, modulation: Modulation) -> None:
    if hidden.dtype not in TILES:
        raise InputError(f"kernels: no Triton kernel for {hidden.dtype}; use torch.float32 or torch.bfloat16")
    if not (hidden.is_contiguous() and weights.fc1.is_contiguous() and weights.fc2.is_contiguous()):
        raise InputError("kernels: tokens and weights must be contiguous; call .contiguous() on them")
    if any(m.stride(-1) != 1 for m in modulation):
        raise InputError("kernels: the modulation must be contiguous along its channels; call .contiguous() on it")


def _device_code() -> Any:
    """The Triton kernels, imported when first asked for: this file must load where Triton is not installed."""
    try:
        from dydit.inference import triton_kernels
    except ImportError as error:
        raise InputError('kernels: Triton is not installed; pip install triton, or choose "dense"') from error
    return triton_kernels


def _shapes(hidden: Tensor, weights: MlpWeights) -> Shapes:
    wide, width = weights.fc1.shape
    return hidden.dtype, hidden.shape[0] * hidden.shape[1], wide, width


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _whole(size: int, tile: int) -> int:
    """Tiles that cover a size."""
    return -(-size // tile)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
