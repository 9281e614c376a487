# mypy: ignore-errors
# Triton's dialect of Python has no types; triton_blocks.py launches these functions and has them.
"""Triton kernels that read from device memory how many rows they have to compute.

They are launched for the largest possible number of rows, and programs beyond the actual number return at once. The
host never needs that number, so it does not wait for the device, and a CUDA graph can hold the launches.

Shape letters: R rows = N images * T tokens, S <= R selected rows, C hidden size, K depth of a product.
Matrices are row-major and contiguous. Values are float32 or bfloat16; every sum is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources  # noqa: F401, for those who tune


@triton.jit
def select_tokens(
    features, weight, bias, mask, hidden, index, count, rows, width, channels, tokens, mask_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUTED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Append the positions of the selected tokens, below R, to `index`, int32 (R,); add their number to `count`, (1,).

    ROUTED: `features` (R, width) are the router's hidden channels before its ReLU, `weight` (width,) and `bias` (1,)
    its last layer; a token is selected where the gate, rounded as torch rounds it, exceeds one half. MASKED: `mask`,
    uint8 (N, tokens), decides instead. With both, the gate is computed all the same, so that its time is part of a
    timed forward; without MASKED, a token of `hidden` (R, channels) whose gate is NaN becomes NaN itself, as in
    `torch_blocks.open_tokens`.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    selected = row < rows
    if MASKED:
        selected = selected & (tl.load(mask + row // tokens * mask_stride + row % tokens, mask=selected, other=0) != 0)
    if ROUTED:
        channel = tl.arange(0, WIDTH)
        inside = (row < rows)[:, None] & (channel < width)[None, :]
        x = tl.load(features + row[:, None].to(tl.int64) * width + channel[None, :], mask=inside, other=0.0)
        w = tl.load(weight + channel, mask=channel < width, other=0.0).to(tl.float32)
        x = x.to(tl.float32)
        # ReLU as torch computes it: the maximum with 0 would lose NaN.
        logit = tl.sum(tl.where(x < 0.0, 0.0, x) * w[None, :], 1) + tl.load(bias).to(tl.float32)
        dtype: tl.constexpr = features.dtype.element_ty
        gate = tl.sigmoid(logit.to(dtype).to(tl.float32)).to(dtype).to(tl.float32)
        if not MASKED:
            tl.store(hidden + row.to(tl.int64) * channels, gate.to(dtype), mask=selected & (gate != gate))
        selected = selected & (gate > (-1.0 if MASKED else 0.5))
    ones = selected.to(tl.int32)
    place = tl.atomic_add(count, tl.sum(ones, 0)) + tl.cumsum(ones, 0) - 1
    tl.store(index + place, row, mask=selected)


@triton.jit
def modulate(
    hidden, index, count, shift, scale, out, tokens, width, shift_stride, scale_stride,
    BLOCK: tl.constexpr, SELECTED: tl.constexpr,
):  # fmt: skip
    """Row r of `out` (R, C): LayerNorm of token r, or index[r] where SELECTED, times 1 + `scale`, plus `shift` (N, C).

    Rows beyond the first `count` keep what they hold.
    """
    row = tl.program_id(0)
    token = row
    if SELECTED:
        if row >= tl.load(count):
            return
        token = tl.load(index + row)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    image = token // tokens
    x = tl.load(hidden + token.to(tl.int64) * width + channel, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 0) / width + 1e-6)
    factor = tl.load(scale + image * scale_stride + channel, mask=inside, other=0.0).to(tl.float32) + 1.0
    offset = tl.load(shift + image * shift_stride + channel, mask=inside, other=0.0).to(tl.float32)
    value = centred / deviation * factor + offset
    tl.store(out + row.to(tl.int64) * width + channel, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _tile(limit, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """First row and first column of this program's tile; the row is `limit` or more where there is nothing to do.

    GROUP row tiles go over the columns together, so that neighbouring programs find both operands in L2. Tiles are
    numbered over the actual rows, which puts all idle programs at the end of the grid.
    """
    program = tl.program_id(0)
    across = tl.cdiv(columns, COLUMNS)
    down = tl.cdiv(limit, ROWS)
    top = program // (GROUP * across) * GROUP
    height = tl.maximum(tl.minimum(down - top, GROUP), 1)
    inner = program % (GROUP * across)
    row_tile = tl.where(program < down * across, top + inner % height, down)
    return row_tile * ROWS, inner // height * COLUMNS


@triton.jit
def _product(
    a, weight, row, column, limit, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Float32 tile of a (R, K) times `weight` (columns, K) transposed; rows and columns outside are zero.

    WHOLE: K is a multiple of DEPTH, so the loop needs no mask along it. WIDEN: multiply in float32, for the
    interpreter, which knows no bfloat16 product. PRECISION: of float32 inputs, "ieee" as they are or "tf32".
    """
    rows, cols, k = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    a_tile = a + rows[:, None].to(tl.int64) * depth + k[None, :]
    w_tile = weight + cols[None, :] * depth + k[:, None]
    a_mask, w_mask = (rows < limit)[:, None], (cols < columns)[None, :]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, depth, DEPTH):
        if WHOLE:
            x = tl.load(a_tile, mask=a_mask, other=0.0)
            w = tl.load(w_tile, mask=w_mask, other=0.0)
        else:
            inside = k < depth - start
            x = tl.load(a_tile, mask=a_mask & inside[None, :], other=0.0)
            w = tl.load(w_tile, mask=w_mask & inside[:, None], other=0.0)
        if WIDEN:
            x, w = x.to(tl.float32), w.to(tl.float32)
        total = tl.dot(x, w, total, input_precision=PRECISION)
        a_tile += DEPTH
        w_tile += DEPTH
    return total


@triton.jit
def linear(
    a, weight, bias, out, count, index, gate, tokens, gate_stride, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    SCATTER: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A linear layer on the first S rows of `a` (R, K), with tanh-GELU, or with gate and scatter where SCATTER.

    GELU: out[:S] = GELU(a @ weight^T + bias), with `out` (R, columns); `index` and `gate` are not read.
    SCATTER: out[index[:S]] += gate * (a @ weight^T + bias), with `gate` (N, columns) of the row's image.
    """
    limit = tl.load(count)
    row, column = _tile(limit, columns, ROWS, COLUMNS, GROUP)
    if row >= limit:
        return
    x = _product(a, weight, row, column, limit, columns, depth, ROWS, COLUMNS, DEPTH, WHOLE, WIDEN, PRECISION)
    rows, cols = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    x += tl.load(bias + cols, mask=cols < columns, other=0.0).to(tl.float32)[None, :]
    inside = (rows < limit)[:, None] & (cols < columns)[None, :]
    if SCATTER:
        token = tl.load(index + rows, mask=rows < limit, other=0)[:, None]
        _add(x, out + token.to(tl.int64) * columns, gate + token // tokens * gate_stride, cols[None, :], inside)
    else:
        target = out + rows[:, None].to(tl.int64) * columns + cols[None, :]
        tl.store(target, _gelu(x).to(out.dtype.element_ty), mask=inside)


@triton.jit
def bias_gelu(x, bias, count, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """x[:S] = tanh-GELU(x + bias) in place, with x (R, columns): what `linear` does after its product."""
    limit = tl.load(count)
    row = tl.program_id(0) * ROWS
    if row >= limit:
        return
    rows, cols = row + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < limit)[:, None] & (cols < columns)[None, :]
    target = x + rows[:, None].to(tl.int64) * columns + cols[None, :]
    offset = tl.load(bias + cols, mask=cols < columns, other=0.0).to(tl.float32)
    value = _gelu(tl.load(target, mask=inside, other=0.0).to(tl.float32) + offset[None, :])
    tl.store(target, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _gelu(x):
    # 0.5 (1 + tanh u) = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): tanh itself is not in the language.
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def add_gated(
    update, bias, hidden, index, count, gate, tokens, gate_stride, width,
    BLOCK: tl.constexpr, SELECTED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """hidden += gate * update, with update (R, C); SELECTED: row r goes to token index[r]; BIASED: update + bias."""
    row = tl.program_id(0)
    token = row
    if SELECTED:
        if row >= tl.load(count):
            return
        token = tl.load(index + row)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    x = tl.load(update + row.to(tl.int64) * width + channel, mask=inside, other=0.0).to(tl.float32)
    if BIASED:
        x += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    _add(x, hidden + token.to(tl.int64) * width, gate + token // tokens * gate_stride, channel, inside)


@triton.jit
def _add(x, hidden, gate, channel, inside):
    """Add gated values to their tokens. No two rows belong to one token, so a plain load and store cannot race."""
    factor = tl.load(gate + channel, mask=inside, other=0.0).to(tl.float32)
    old = tl.load(hidden + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(hidden + channel, (old + factor * x).to(hidden.dtype.element_ty), mask=inside)


def median_ms(call):
    """Median time of a call on the device, in ms, from about 20 ms of calls."""
    return triton.testing.do_bench(call, warmup=5, rep=20, return_mode="median")
