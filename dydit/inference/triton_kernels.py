# mypy: ignore-errors
# Triton's dialect of Python has no types; the host side in fused.py is the typed door to these functions.
"""Device code of fused.py: kernels whose row count is read from device memory.

Grids are launched for the most rows there could be, and programs beyond the count leave at once: the host never
learns the count, so nothing waits for it and a CUDA graph can hold the launches.

Shape letters: R rows = N images * T tokens, S <= R selected rows, C hidden size, K depth of a product.
Matrices are row-major and contiguous. Values are float32 or bfloat16; every sum is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.runtime.errors import OutOfResources  # noqa: F401, for those who tune


@triton.jit
def choose(
    features, weight, bias, given, index, count, rows, width, tokens, given_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, ROUTED: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """Append the chosen tokens, positions below R, to `index`, int32 (R,), and add their number to `count`, (1,).

    ROUTED: `features` (R, width) are the router's before its ReLU, `weight` (width,) and `bias` (1,) its last layer,
    and a token is chosen where the gate exceeds one half, rounded as torch rounds. GIVEN: `given`, uint8 (N, tokens),
    decides instead; with both the gate is computed all the same, so that a timed forward pays for it.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    chosen = row < rows
    if GIVEN:
        chosen = chosen & (tl.load(given + row // tokens * given_stride + row % tokens, mask=chosen, other=0) != 0)
    if ROUTED:
        channel = tl.arange(0, WIDTH)
        inside = (row < rows)[:, None] & (channel < width)[None, :]
        x = tl.load(features + row[:, None].to(tl.int64) * width + channel[None, :], mask=inside, other=0.0)
        w = tl.load(weight + channel, mask=channel < width, other=0.0).to(tl.float32)
        logit = tl.sum(tl.maximum(x.to(tl.float32), 0.0) * w[None, :], 1) + tl.load(bias).to(tl.float32)
        dtype: tl.constexpr = features.dtype.element_ty
        gate = tl.sigmoid(logit.to(dtype).to(tl.float32)).to(dtype).to(tl.float32)
        chosen = chosen & (gate > (-1.0 if GIVEN else 0.5))
    ones = chosen.to(tl.int32)
    place = tl.atomic_add(count, tl.sum(ones, 0)) + tl.cumsum(ones, 0) - 1
    tl.store(index + place, row, mask=chosen)


@triton.jit
def modulate(
    hidden, index, count, shift, scale, out, tokens, width, shift_stride, scale_stride,
    BLOCK: tl.constexpr, CHOSEN: tl.constexpr,
):  # fmt: skip
    """Row r of `out` (R, C): LayerNorm of token r, or index[r] where CHOSEN, times 1 + `scale`, plus `shift` (N, C).

    Rows from the count on are left as they were.
    """
    row = tl.program_id(0)
    token = row
    if CHOSEN:
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
    """Row and column tile of this program; the row tile starts at or beyond `limit` where nothing is left to do.

    GROUP row tiles share a sweep over the columns, so that neighbouring programs find both operands in L2. Tiles are
    counted over the rows that exist, which puts all idle programs at the end of the grid.
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
):  # fmt: skip
    """Float32 tile of a (R, K) times `weight` (columns, K) transposed; rows and columns outside are zero.

    WHOLE: K is a multiple of DEPTH, so the loop needs no mask along it. WIDEN: multiply in float32, for the
    interpreter, which knows no bfloat16 product.
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
        total = tl.dot(x, w, total, input_precision="ieee")  # no TF32: float32 means float32
        a_tile += DEPTH
        w_tile += DEPTH
    return total


@triton.jit
def linear_gelu(
    a, weight, bias, out, count, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """out[:S] = tanh-GELU(a @ weight^T + bias), with a (R, K) and out (R, columns)."""
    limit = tl.load(count)
    row, column = _tile(limit, columns, ROWS, COLUMNS, GROUP)
    if row >= limit:
        return
    x = _product(a, weight, row, column, limit, columns, depth, ROWS, COLUMNS, DEPTH, WHOLE, WIDEN)
    rows, cols = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    x = _gelu(x + tl.load(bias + cols, mask=cols < columns, other=0.0).to(tl.float32)[None, :])
    inside = (rows < limit)[:, None] & (cols < columns)[None, :]
    target = out + rows[:, None].to(tl.int64) * columns + cols[None, :]
    tl.store(target, x.to(out.dtype.element_ty), mask=inside)


@triton.jit
def bias_gelu(x, bias, count, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """x[:S] = tanh-GELU(x + bias) in place, with x (R, columns): what `linear_gelu` does after its product."""
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
def linear_scatter(
    a, weight, bias, hidden, index, gate, count, tokens, gate_stride, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """hidden[index[:S]] += gate * (a @ weight^T + bias), with a (R, K), gate (N, columns) of the row's image."""
    limit = tl.load(count)
    row, column = _tile(limit, columns, ROWS, COLUMNS, GROUP)
    if row >= limit:
        return
    x = _product(a, weight, row, column, limit, columns, depth, ROWS, COLUMNS, DEPTH, WHOLE, WIDEN)
    rows, cols = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    x += tl.load(bias + cols, mask=cols < columns, other=0.0).to(tl.float32)[None, :]
    token = tl.load(index + rows, mask=rows < limit, other=0)
    inside = (rows < limit)[:, None] & (cols < columns)[None, :]
    token = token[:, None]
    _add(x, hidden + token.to(tl.int64) * columns, gate + token // tokens * gate_stride, cols[None, :], inside)


@triton.jit
def add_gated(
    update, bias, hidden, index, count, gate, tokens, gate_stride, width,
    BLOCK: tl.constexpr, CHOSEN: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """hidden += gate * update, with update (R, C); CHOSEN: row r goes to token index[r]; BIASED: update + bias."""
    row = tl.program_id(0)
    token = row
    if CHOSEN:
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
    """Add gated values to their tokens. Every token has one row, so a plain load and store cannot race."""
    factor = tl.load(gate + channel, mask=inside, other=0.0).to(tl.float32)
    old = tl.load(hidden + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(hidden + channel, (old + factor * x).to(hidden.dtype.element_ty), mask=inside)


def median_ms(function):
    """Median time of a function on the device, in ms, from about 20 ms of runs."""
    return triton.testing.do_bench(function, warmup=5, rep=20, return_mode="median")
