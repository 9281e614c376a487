# mypy: ignore-errors
# Triton's dialect of Python has no types; the host side in kernels.py is the typed door to these functions.
"""Device code of the token-selective MLP: four kernels whose row count is read from device memory.

Grids are launched for the most rows there could be, and programs beyond the count leave at once: the host never
learns the count, so nothing waits for it and a CUDA graph can hold the launches.

Shape letters: R rows = N images * T tokens, S <= R selected rows, C hidden size, K depth of a product.
Matrices are row-major and contiguous. Values are float32 or bfloat16; every sum is float32.
"""

import triton
import triton.language as tl


@triton.jit
def compact(chosen, index, count, rows, TILE: tl.constexpr):
    """Where `chosen`, uint8 (R,), is set: rising positions in `index`, int32 (R,), and their number in `count` (1,).

    One program walks the mask: a prefix sum over tiles is not worth a second launch for R below a million.
    `index` beyond the count is left as it was.
    """
    found = tl.zeros((), dtype=tl.int32)
    for start in range(0, rows, TILE):
        position = start + tl.arange(0, TILE)
        mask = tl.load(chosen + position, mask=position < rows, other=0).to(tl.int32)
        place = found + tl.cumsum(mask, 0) - 1
        tl.store(index + place, position, mask=mask != 0)
        found += tl.sum(mask, 0)
    tl.store(count, found)


@triton.jit
def gather_modulate(
    hidden, index, count, shift, scale, out, capacity, tokens, width, shift_stride, scale_stride, BLOCK: tl.constexpr
):
    """Row r of `out` (R, C): LayerNorm of token index[r], times `scale` (which is 1 + scale), plus `shift` (N, C).

    Rows from the count up to `capacity` become zero.
    """
    row = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    if row >= tl.load(count):
        if row < capacity:
            tl.store(out + row.to(tl.int64) * width + channel, tl.zeros((BLOCK,), out.dtype.element_ty), mask=inside)
        return
    token = tl.load(index + row)
    image = token // tokens
    x = tl.load(hidden + token.to(tl.int64) * width + channel, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 0) / width + 1e-6)
    factor = tl.load(scale + image * scale_stride + channel, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(shift + image * shift_stride + channel, mask=inside, other=0.0).to(tl.float32)
    value = centred / deviation * factor + offset
    tl.store(out + row.to(tl.int64) * width + channel, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _tile(first, limit, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """Row and column tile of this program; the row tile starts at or beyond `limit` where nothing is left to do.

    GROUP row tiles share a sweep over the columns, so that neighbouring programs find both operands in L2. Tiles are
    counted over the rows that exist, which puts all idle programs at the end of the grid.
    """
    program = tl.program_id(0)
    across = tl.cdiv(columns, COLUMNS)
    down = tl.cdiv(tl.maximum(limit - first, 0), ROWS)
    top = program // (GROUP * across) * GROUP
    height = tl.maximum(tl.minimum(down - top, GROUP), 1)
    inner = program % (GROUP * across)
    down_tile = tl.where(program < down * across, top + inner % height, down)
    return first + down_tile * ROWS, inner // height * COLUMNS


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
    a, weight, bias, out, count, first, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """out[first:S] = tanh-GELU(a @ weight^T + bias), with a (R, K) and out (R, columns)."""
    limit = tl.load(count)
    row, column = _tile(first, limit, columns, ROWS, COLUMNS, GROUP)
    if row >= limit:
        return
    x = _product(a, weight, row, column, limit, columns, depth, ROWS, COLUMNS, DEPTH, WHOLE, WIDEN)
    rows, cols = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    x += tl.load(bias + cols, mask=cols < columns, other=0.0).to(tl.float32)[None, :]
    # 0.5 (1 + tanh u) = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): tanh itself is not in the language.
    x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    inside = (rows < limit)[:, None] & (cols < columns)[None, :]
    target = out + rows[:, None].to(tl.int64) * columns + cols[None, :]
    tl.store(target, x.to(out.dtype.element_ty), mask=inside)


@triton.jit
def linear_scatter(
    a, weight, bias, hidden, index, gate, count, first, tokens, gate_stride, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """hidden[index[first:S]] += gate * (a @ weight^T + bias), with a (R, K), gate (N, columns) of the row's image."""
    limit = tl.load(count)
    row, column = _tile(first, limit, columns, ROWS, COLUMNS, GROUP)
    if row >= limit:
        return
    x = _product(a, weight, row, column, limit, columns, depth, ROWS, COLUMNS, DEPTH, WHOLE, WIDEN)
    cols = column + tl.arange(0, COLUMNS)
    x += tl.load(bias + cols, mask=cols < columns, other=0.0).to(tl.float32)[None, :]
    _scatter(x, hidden, index, gate, row, cols, limit, tokens, gate_stride, columns, ROWS)


@triton.jit
def scatter(
    update, hidden, index, gate, count, capacity, tokens, gate_stride, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """hidden[index[:min(S, capacity)]] += gate * update, with update (capacity, columns)."""
    limit = tl.minimum(tl.load(count), capacity)
    row = tl.program_id(0) * ROWS
    if row >= limit:
        return
    rows, cols = row + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < limit)[:, None] & (cols < columns)[None, :]
    source = update + rows[:, None].to(tl.int64) * columns + cols[None, :]
    x = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    _scatter(x, hidden, index, gate, row, cols, limit, tokens, gate_stride, columns, ROWS)


@triton.jit
def _scatter(x, hidden, index, gate, row, cols, limit, tokens, gate_stride, columns, ROWS: tl.constexpr):
    """Add the gated tile to its tokens. Every token has one row, so a plain load and store cannot race."""
    rows = row + tl.arange(0, ROWS)
    token = tl.load(index + rows, mask=rows < limit, other=0)
    inside = (rows < limit)[:, None] & (cols < columns)[None, :]
    factor = tl.load(gate + (token // tokens)[:, None] * gate_stride + cols[None, :], mask=inside, other=0.0)
    target = hidden + token[:, None].to(tl.int64) * columns + cols[None, :]
    old = tl.load(target, mask=inside, other=0.0).to(tl.float32)
    tl.store(target, (old + factor.to(tl.float32) * x).to(hidden.dtype.element_ty), mask=inside)


def median_ms(function):
    """Median time of a function on the device, in ms, from about 20 ms of runs."""
    return triton.testing.do_bench(function, warmup=5, rep=20, return_mode="median")
