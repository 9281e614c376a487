"""Linear layers and attention by the kernels of torch that are fastest on a CPU, where it has them.

oneDNN computes a linear layer together with its bias and GELU. In bfloat16 its matrix products also make a faster
attention than torch's own, which computes them at the rate of float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _served_dtypes() -> frozenset[torch.dtype]:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return frozenset()
    half = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset({torch.float32} | half)


_SERVED = _served_dtypes()
"""In what oneDNN multiplies on this CPU."""
SCORES_BYTES = 2**22
"""Of the attention scores that are held at once: they should stay in a core's cache."""


def serves(x: Tensor) -> bool:
    """Whether oneDNN computes linear layers of x."""
    return x.device.type == "cpu" and x.dtype in _SERVED


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """x (R, K) @ weight (O, K)^T + bias (O,) -> (R, O), then GELU in its tanh form if asked for, in the same pass."""
    kind, form = ("gelu", "tanh") if gelu else ("none", "")
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], form)
    return result


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
