"""What makes a network fast on a CPU: the operations of torch for linear layers, GELU and attention, and freed memory.

With AVX-512, oneDNN computes a linear layer together with its bias and GELU, and in bfloat16 its matrix products also
make a faster attention than torch's own, which computes them at the rate of float32. It multiplies by a weight in a
layout of its own, into which `packed` copies it once; any other is copied at every product. On a CPU without AVX-512
torch's own products are as fast or faster, and oneDNN's GELU is slower than torch's.
"""

from __future__ import annotations

import ctypes
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def _served_dtypes() -> frozenset[torch.dtype]:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return frozenset()
    half = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset({torch.float32} | half)


_SERVED = _served_dtypes()
"""In what oneDNN multiplies faster than torch on this CPU."""
_LINEAR, _CUBIC = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715
"""GELU in its tanh form is x sigmoid(_LINEAR x + _CUBIC x^3)."""
SCORES_BYTES = 2**21
"""Of the attention scores that are held at once: they should stay in the cores' caches."""


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, as malloc.h of the GNU C library numbers them."""
_LARGE = 2**30

_kept = False


def serves(x: Tensor) -> bool:
    """Whether oneDNN computes linear layers of x here."""
    return x.device.type == "cpu" and x.dtype in _SERVED


def packed(weight: Tensor) -> Tensor:
    """A copy of a weight (O, K) in oneDNN's own layout, which `linear` reads fastest and few other operations read."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())  # type: ignore[no-any-return]


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Literal["none", "gelu", "relu"] = "none"
) -> Tensor:
    """x (R, K) @ weight (O, K)^T + bias (O,) -> (R, O), then the activation in the same pass; GELU in its tanh form.

    The weight may be `packed`.
    """
    form = "tanh" if activation == "gelu" else ""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], form)
    return result


def gelu_(x: Tensor, spare: Tensor) -> Tensor:
    """GELU of x, of any shape, in its tanh form and in place; `spare` is memory of x's shape and dtype.

    In float32 by way of the logistic function, of which torch has a faster form than of tanh.
    """
    if x.dtype != torch.float32:
        return torch.ops.aten.gelu_(x, approximate="tanh")  # type: ignore[no-any-return]
    factor = torch.mul(x, x, out=spare).mul_(_CUBIC).add_(_LINEAR).mul_(x).sigmoid_()
    return x.mul_(factor)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of queries, keys and values (N, h, T, D), side by side: (N, T, h D).

    In bfloat16 the scores are rounded to bfloat16 before the softmax, which torch's own kernel does not do; the result
    moves by about one more rounding.
    """
    n, heads, tokens, _ = q.shape
    if q.dtype == torch.bfloat16 and serves(q):
        return _by_products(q, k, v).view(n, heads, tokens, -1).transpose(1, 2).reshape(n, tokens, -1)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, -1)


def _by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention (N h, T, D), some heads at a time."""
    q, k, v = (each.flatten(0, 1).contiguous() for each in (q, k, v))
    count, tokens, width = q.shape
    out, unused = torch.empty_like(q), q.new_zeros(1)
    some = max(1, SCORES_BYTES // (tokens * tokens * q.element_size()))
    for start in range(0, count, some):
        part = slice(start, start + some)
        scores = torch.baddbmm(unused, q[part], k[part].transpose(1, 2), beta=0, alpha=width**-0.5)
        torch.bmm(scores.softmax(-1), v[part], out=out[part])
    return out


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next request, instead of returning it to the system.

    The intermediates of a forward take megabytes. The GNU C library returns such blocks to the system when they are
    freed, so that every page of the next one costs a page fault. This holds for the whole process from here on, with
    whatever else it computes; call it before a network runs. Blocks of 1 GiB and more are returned all the same.

    Returns:
        whether it was done; other C libraries are left as they are.
    """
    global _kept
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    _kept = mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _LARGE))
    return _kept


def freed_memory_is_kept() -> bool:
    """Whether `keep_freed_memory` was called in this process, and the C library follows it; for the record of a run."""
    return _kept
