"""Matrix products on a GPU: the arithmetic that torch allows, tiles of the fused MLP, and what tuning chose.

The static side of a comparison multiplies by torch alone, the realised side partly by Triton. Both follow torch's own
settings, so that neither runs in a faster arithmetic than the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from dydit.errors import InputError

Arithmetic = Literal["float32", "tf32", "bfloat16"]
"""Of a product's inputs; sums are float32. In tf32 the inputs are float32, of which the device reads 10 bits."""


@dataclass(frozen=True)
class Tile:
    """The part of a matrix product that one program computes, and how Triton compiles it.

    Args:
        rows: rows of the output tile.
        columns: columns of the output tile.
        depth: length of one step along the summed dimension.
        group: row tiles that go over the columns together, for reuse in L2.
        warps: warps per program.
        stages: steps of the sum whose operands are loaded ahead.
    """

    rows: int
    columns: int
    depth: int
    group: int
    warps: int
    stages: int


Tiles = tuple[Tile, Tile]
"""For the product with fc1 and for the one with fc2; the second scatters its result, which takes more registers."""

TILES: dict[Arithmetic, tuple[Tiles, ...]] = {
    "bfloat16": (
        (Tile(128, 128, 64, group=8, warps=8, stages=3), Tile(128, 128, 64, group=8, warps=8, stages=3)),
        (Tile(128, 256, 64, group=8, warps=8, stages=3), Tile(128, 128, 64, group=8, warps=8, stages=4)),
        (Tile(128, 128, 64, group=8, warps=8, stages=3), Tile(128, 64, 64, group=8, warps=8, stages=4)),
        (Tile(64, 64, 64, group=8, warps=4, stages=4), Tile(64, 64, 64, group=8, warps=4, stages=4)),
    ),
    "tf32": (
        (Tile(128, 128, 32, group=8, warps=8, stages=3), Tile(128, 64, 32, group=8, warps=8, stages=4)),
        (Tile(128, 64, 32, group=8, warps=8, stages=4), Tile(128, 64, 32, group=8, warps=8, stages=4)),
        (Tile(64, 64, 32, group=8, warps=4, stages=4), Tile(64, 64, 32, group=8, warps=4, stages=4)),
    ),
    "float32": (
        (Tile(64, 64, 32, group=8, warps=8, stages=3), Tile(64, 64, 32, group=8, warps=8, stages=3)),
        (Tile(128, 64, 32, group=8, warps=8, stages=3), Tile(128, 64, 32, group=8, warps=8, stages=3)),
        (Tile(32, 32, 32, group=8, warps=4, stages=3), Tile(32, 32, 32, group=8, warps=4, stages=3)),
    ),
}
"""The first is the default, the last the default for few rows.

Compiled for compute capability 9.0 they fit its shared memory and keep their sums in registers (float32 spills up to
16 bytes per thread, the others none); they have not been timed on a device.
"""

LIBRARY = "torch.nn.functional.grouped_mm"
Products = Tiles | str
"""Tiles of Triton's products, or `LIBRARY`."""

FEW_ROWS = 2048
"""Up to this many rows, large tiles would leave most of the device idle."""


class Shapes(NamedTuple):
    """What products are tuned for: arithmetic, rows of tokens, hidden channels of the MLP, and its width."""

    arithmetic: Arithmetic
    rows: int
    hidden: int
    width: int


_tuned: dict[Shapes, Products] = {}


def takes_tf32(settings: Any, legacy: Any) -> bool:
    """Whether torch's settings of matrix products, or of convolutions, let a GPU read float32 inputs as TF32.

    `allow_tf32` of the `legacy` settings raises once `fp32_precision`, its successor, was set anywhere; older versions
    of torch have it alone.
    """
    precision = getattr(settings, "fp32_precision", None)
    return bool(legacy.allow_tf32) if precision is None else precision == "tf32"


def arithmetic_of(dtype: torch.dtype, device: torch.device) -> Arithmetic:
    """In which arithmetic products of tensors of this dtype compute on a device, as torch's settings are now.

    Raises:
        InputError: a dtype for which there is no name here.
    """
    if dtype == torch.float32:
        matmul = torch.backends.cuda.matmul
        return "tf32" if device.type == "cuda" and takes_tf32(matmul, matmul) else "float32"
    if dtype == torch.bfloat16:
        return "bfloat16"
    raise InputError(f"engine: no kernel for {dtype}; use torch.float32 or torch.bfloat16")


def candidates(arithmetic: Arithmetic, device: torch.device) -> tuple[Products, ...]:
    """What `Engine.tune` times; torch's grouped product only on devices for which torch has a kernel of its own."""
    grouped = arithmetic == "bfloat16" and hasattr(F, "grouped_mm") and device.type == "cuda"
    if grouped and torch.cuda.get_device_capability(device) >= (9, 0):
        return (*TILES[arithmetic], LIBRARY)
    return TILES[arithmetic]


def default_products(shapes: Shapes) -> Tiles:
    """The tiles for shapes that were not tuned."""
    return TILES[shapes.arithmetic][-1 if shapes.rows <= FEW_ROWS else 0]


def known_products(shapes: Shapes) -> Products | None:
    """What tuning chose for these shapes in this process; None where nothing was tuned."""
    return _tuned.get(shapes)


def choose_products(shapes: Shapes, products: Products) -> None:
    """From here on all engines of this process use these products for these shapes."""
    _tuned[shapes] = products


def tuned_products() -> list[dict[str, Any]]:
    """What tuning chose in this process, fit for JSON; `adopt_products` takes it."""
    return [
        shapes._asdict()
        | {"products": products if isinstance(products, str) else [dataclasses.asdict(tile) for tile in products]}
        for shapes, products in _tuned.items()
    ]


def adopt_products(entries: Iterable[dict[str, Any]]) -> None:
    """Use what another process chose, as its `tuned_products` says: products of other tiles may round differently.

    Raises:
        InputError: entries of another form.
    """
    try:
        for entry in entries:
            shapes = Shapes(*(entry[name] for name in Shapes._fields))
            products = entry["products"]
            if not isinstance(products, str):
                first, second = (Tile(**tile) for tile in products)
                products = (first, second)
            elif products != LIBRARY:
                raise ValueError(products)
            choose_products(shapes, products)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"tuned products: an entry of another form ({error!r}); tune again") from None
