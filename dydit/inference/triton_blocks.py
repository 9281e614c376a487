"""The parts of a transformer block in fused Triton kernels; the host never learns how many tokens are selected.

A gather with `nonzero` stops the host once per block until the device has caught up. Here the number of selected tokens
stays in device memory and no shape or grid depends on it, so that the host runs ahead and a CUDA graph can hold a whole
forward. The MLP's two products over the selected tokens are Triton's, with GELU and scatter fused into them, or torch's
grouped product, which reads its number of rows on the device as well; `Engine.tune` times both and keeps the faster.

Shape letters: N images, T tokens, R = N * T rows, S selected rows, C hidden size.
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

from dydit.errors import InputError, first_line
from dydit.inference.products import (
    Products,
    Shapes,
    Tile,
    Tiles,
    arithmetic_of,
    candidates,
    choose_products,
    default_products,
    known_products,
)
from dydit.inference.spans import span
from dydit.inference.torch_blocks import SELECTED, Modulation, TorchBlocks, open_tokens
from dydit.inference.weight_slices import MlpWeights
from dydit.routing import TokenRouter


@dataclass(frozen=True)
class SelectedTokens:
    """Selected tokens on the device: their positions are the first `count`, int32 (1,), entries of `index`, int32 (R,).

    Their order differs from run to run, which changes no result, since no row depends on another.
    """

    index: Tensor
    count: Tensor


class TritonBlocks(TorchBlocks):
    """The parts of a block on a CUDA device; tokens must be contiguous float32 or bfloat16.

    Float32 products take TF32 inputs where torch's settings allow it, as torch's own do.

    Raises:
        InputError: Triton is not installed, the device is not CUDA (and Triton does not interpret its kernels), or
            the kernels cannot take a tensor.
    """

    waits = False
    tunable = True

    def __init__(self, device: torch.device) -> None:
        super().__init__(packs=False)
        self._code = _device_code()
        self._tuning = False
        if not (device.type == "cuda" or _interpreted()):
            raise InputError(f"engine: the model is on {device}, Triton's kernels need CUDA; leave `backend` out")

    def select_tokens(self, hidden: Tensor, router: nn.Module, override: Tensor | None) -> SelectedTokens:
        features = last = None
        mask = override
        if type(router) is TokenRouter:
            first, _, last = router.mlp_head
            assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
            # The layer before the router's ReLU is torch's; one kernel does all the rest and makes the list of tokens.
            features = F.linear(hidden, first.weight, first.bias)
        elif mask is None:
            mask = open_tokens(hidden, router(hidden))
        if mask is not None and mask.stride(-1) != 1:
            mask = mask.contiguous()
        n, tokens, channels = hidden.shape
        rows = n * tokens
        index = torch.empty(rows, dtype=torch.int32, device=hidden.device)
        count = torch.zeros(1, dtype=torch.int32, device=hidden.device)
        width = 1 if features is None else features.shape[-1]
        self._code.select_tokens[(_tiles_over(rows, 64),)](
            features, None if last is None else last.weight, None if last is None else last.bias,
            None if mask is None else mask.view(torch.uint8), hidden, index, count, rows, width, channels, tokens,
            None if mask is None else mask.stride(0),
            ROWS=64, WIDTH=_power_of_two(width), ROUTED=features is not None, MASKED=mask is not None, num_warps=4,
        )  # fmt: skip
        return SelectedTokens(index, count)

    def update_selected(
        self, hidden: Tensor, selected: SelectedTokens, weights: MlpWeights, modulation: Modulation
    ) -> None:
        _check(hidden, weights, modulation)
        shapes = _shapes(hidden, weights)
        products = known_products(shapes)
        if self._tuning and products is None:
            products = self._fastest(hidden, selected, weights, modulation)
            choose_products(shapes, products)
        self.update_with(hidden, selected, weights, modulation, products or default_products(shapes))

    def modulated(self, hidden: Tensor, modulation: Modulation) -> Tensor:
        return self._modulated(hidden, modulation, None).view_as(hidden)

    def add_gated(self, hidden: Tensor, update: Tensor, gate: Tensor) -> None:
        self._add_gated(hidden, update, None, gate, None)

    def ran_in(self, dtype: torch.dtype, device: torch.device) -> dict[str, str]:
        arithmetic = arithmetic_of(dtype, device)
        fused = f"Triton, {arithmetic}, or torch's grouped product where tuning chose it"
        return super().ran_in(dtype, device) | {SELECTED: fused, "norms and gates": "Triton, float32"}

    @contextlib.contextmanager
    def tuning(self) -> Iterator[None]:
        """Inside this context, the first forward at a new shape times all candidates for its products.

        Timing stays apart from what is measured or captured as a graph, where it would not belong.
        """
        self._tuning = True
        try:
            yield
        finally:
            self._tuning = False

    def _fastest(
        self, hidden: Tensor, selected: SelectedTokens, weights: MlpWeights, modulation: Modulation
    ) -> Products:
        """The candidate with the smallest time, among those for which the device has enough registers and memory."""
        scratch, times, refused = hidden.clone(), dict[Products, float](), list[Exception]()
        for products in candidates(arithmetic_of(hidden.dtype, hidden.device), hidden.device):
            update = partial(self.update_with, scratch, selected, weights, modulation, products)
            try:
                times[products] = self._code.median_ms(update)
            except (RuntimeError, self._code.OutOfResources) as error:
                refused.append(error)
        if not times:
            raise refused[0]
        return min(times, key=times.__getitem__)

    def update_with(
        self,
        hidden: Tensor,
        selected: SelectedTokens,
        weights: MlpWeights,
        modulation: Modulation,
        products: Products,
    ) -> None:
        """`update_selected` with these products."""
        with span("norm"):
            normed = self._modulated(hidden, modulation, selected)
        with span("MLP"):
            if isinstance(products, str):
                self._by_library(hidden, normed, selected, weights, modulation.gate)
            else:
                self._by_tiles(hidden, normed, selected, weights, modulation.gate, products)

    def _by_library(
        self, hidden: Tensor, normed: Tensor, selected: SelectedTokens, weights: MlpWeights, gate: Tensor
    ) -> None:
        count = selected.count
        activated = F.grouped_mm(normed, weights.fc1.t()[None], offs=count)
        rows, wide = activated.shape
        grid = (_tiles_over(rows, 16), _tiles_over(wide, 128))
        self._code.bias_gelu[grid](activated, weights.fc1_bias, count, wide, ROWS=16, COLUMNS=128, num_warps=4)
        update = F.grouped_mm(activated, weights.fc2.t()[None], offs=count)
        self._add_gated(hidden, update, weights.fc2_bias, gate, selected)

    def _by_tiles(
        self, hidden: Tensor, normed: Tensor, selected: SelectedTokens, weights: MlpWeights, gate: Tensor, tiles: Tiles
    ) -> None:
        activated = hidden.new_empty(len(normed), len(weights.fc1))
        gate = gate.squeeze(1)
        where = (selected.index, gate, hidden.shape[1], gate.stride(0))
        self._linear(normed, weights.fc1, weights.fc1_bias, activated, selected.count, None, tiles[0])
        self._linear(activated, weights.fc2, weights.fc2_bias, hidden, selected.count, where, tiles[1])

    def _linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        out: Tensor,
        count: Tensor,
        scatter: tuple[Tensor, Tensor, int, int] | None,
        tile: Tile,
    ) -> None:
        """Launch `triton_kernels.linear`; `scatter` holds its index, gate, tokens and gate_stride."""
        columns, depth = weight.shape
        grid = _tiles_over(len(x), tile.rows) * _tiles_over(columns, tile.columns)
        self._code.linear[(grid,)](
            x, weight, bias, out, count, *(scatter or (None, None, None, None)), columns, depth,
            ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth, GROUP=tile.group, SCATTER=scatter is not None,
            WHOLE=depth % tile.depth == 0, WIDEN=_interpreted(),
            PRECISION="tf32" if arithmetic_of(x.dtype, x.device) == "tf32" else "ieee",
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip

    def _modulated(self, hidden: Tensor, modulation: Modulation, selected: SelectedTokens | None) -> Tensor:
        """(R, C): row r is token r, or the r-th selected one; rows beyond their number are not written."""
        shift, scale = modulation.shift.squeeze(1), modulation.scale.squeeze(1)
        n, tokens, width = hidden.shape
        out = hidden.new_empty(n * tokens, width)
        where = (None, None) if selected is None else (selected.index, selected.count)
        self._code.modulate[(n * tokens,)](
            hidden, *where, shift, scale, out, tokens, width, shift.stride(0), scale.stride(0),
            BLOCK=_power_of_two(width), SELECTED=selected is not None, num_warps=4,
        )  # fmt: skip
        return out

    def _add_gated(
        self, hidden: Tensor, update: Tensor, bias: Tensor | None, gate: Tensor, selected: SelectedTokens | None
    ) -> None:
        """hidden += gate * (update + bias): row r of `update` goes to token r, or to the r-th selected one."""
        n, tokens, width = hidden.shape
        where = (None, None) if selected is None else (selected.index, selected.count)
        self._code.add_gated[(n * tokens,)](
            update, bias, hidden, *where, gate, tokens, gate.stride(0), width,
            BLOCK=_power_of_two(width), SELECTED=selected is not None, BIASED=bias is not None, num_warps=4,
        )  # fmt: skip


def _check(hidden: Tensor, weights: MlpWeights, modulation: Modulation) -> None:
    if not (hidden.is_contiguous() and weights.fc1.is_contiguous() and weights.fc2.is_contiguous()):
        raise InputError("engine: tokens and weights must be contiguous; call .contiguous() on them")
    if any(m.stride(-1) != 1 for m in modulation):
        raise InputError("engine: the modulation must be contiguous along its channels; call .contiguous() on it")


def _device_code() -> Any:
    """The module of Triton kernels, imported when needed: this file must load where Triton is not installed."""
    try:
        from dydit.inference import triton_kernels
    except ImportError as error:
        raise InputError(f"engine: Triton cannot be used ({first_line(error)}); pip install triton") from error
    return triton_kernels


def _shapes(hidden: Tensor, weights: MlpWeights) -> Shapes:
    arithmetic = arithmetic_of(hidden.dtype, hidden.device)
    return Shapes(arithmetic, hidden.shape[0] * hidden.shape[1], *weights.fc1.shape)


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _tiles_over(size: int, tile: int) -> int:
    """Number of tiles that cover a size."""
    return -(-size // tile)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
