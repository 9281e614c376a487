"""MACs counted on the operators that ran, by two libraries; an operator without a formula is an error.

Both libraries stay silent about operators they do not know. Here each operator either has a formula or stands in
`FREE` with the reason, and anything else raises. Counting runs nothing when model and inputs are on the meta device.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

Inputs = tuple[Tensor, ...]

_ELEMENTWISE = (
    "add addcmul sub rsub mul div neg abs exp log log1p sqrt rsqrt pow cos sin tanh sigmoid silu relu gelu clamp where "
    "gt ge lt le eq ne logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not masked_fill isnan "
    "softmax _softmax _safe_softmax sum mean max min amax amin any all cumsum linalg_vector_norm sort argsort topk"
)
_MOVEMENT = (
    "view _unsafe_view reshape _reshape_alias as_strided flatten unflatten permute transpose t expand expand_as repeat "
    "unsqueeze squeeze slice select narrow split split_with_sizes chunk unbind cat stack clone contiguous copy detach "
    "alias to _to_copy type_as lift_fresh embedding index index_select index_copy index_put index_add gather scatter "
    "scatter_add scatter_reduce nonzero masked_select _local_scalar_dense _reorder_linear_weight"
)
_CREATION = (
    "arange empty empty_like empty_strided zeros zeros_like ones ones_like full full_like scalar_tensor "
    "new_empty new_zeros new_ones new_full fill zero"
)

FREE: Mapping[str, frozenset[str]] = {
    "one or a few operations per element, which no convention in print counts": frozenset(_ELEMENTWISE.split()),
    "moves or names data, computes nothing": frozenset(_MOVEMENT.split()),
    "makes a tensor from nothing": frozenset(_CREATION.split()),
    "LayerNorm: counted by fvcore (4 per element without affine), not by torch": frozenset({"native_layer_norm"}),
}
"""ATen operators that cost no MACs, by reason; an in-place form (`add_`) counts as its plain one."""

_FREE_NAMES = frozenset().union(*FREE.values())

# Fused attention of the devices for which torch's counter has no formula.
_FUSED_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)


class UnknownOperator(RuntimeError):
    """An operator ran that a counter has no formula for; a total without it would be too small."""

    def __init__(self, counter: str, operators: Iterable[str]) -> None:
        names = ", ".join(sorted(operators))
        super().__init__(
            f"{counter} has no formula for {names}; add one in bench/flops/counters.py, "
            "or list it in FREE with the reason"
        )


@dataclass(frozen=True)
class Count:
    """MACs of one call by operator, as `counter` names the operators."""

    counter: str
    by_operator: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_operator.values())


def attention_products(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """MACs of scores and values, for shapes (N, H, T, D), (N, H, S, D), (N, H, S, E); no mask is taken off."""
    n, heads, tokens, width = query
    return n * heads * tokens * key[-2] * (width + value[-1])


def fvcore_count(model: nn.Module, inputs: Inputs, *, unmodified: bool = False) -> Count:
    """MACs by fvcore, whose convention counts matrix products, convolution and LayerNorm at 4 per element.

    Args:
        model: the network.
        inputs: of one call, on the meta device or with values.
        unmodified: leave out this module's formula of fused attention, which fvcore skips, and its check.

    Raises:
        UnknownOperator: an operator has no formula and is not free.
    """
    with warnings.catch_warnings():
        # torch.jit, on which fvcore stands, says on every use that it is no longer developed.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        if not unmodified:
            analysis.set_op_handle("aten::scaled_dot_product_attention", _fvcore_attention)
        with torch.no_grad(), _ConvolutionOffMeta():
            counted = analysis.by_operator()
            unknown = {name for name in analysis.unsupported_ops() if not _is_free(name)}
    if unknown and not unmodified:
        raise UnknownOperator("fvcore", unknown)
    return Count("fvcore", {name: float(value) for name, value in sorted(counted.items()) if value})


def torch_count(model: Callable[..., Any], inputs: Inputs) -> Count:
    """MACs by torch's FlopCounterMode, which counts matrix products and convolution only, each MAC as two operations.

    Takes any callable: the operators are counted where they run, so work that is skipped is not counted.

    Raises:
        UnknownOperator: an operator has no formula and is not free.
    """
    fused: dict[Any, Any] = {getattr(torch.ops.aten, name): _torch_attention for name in _FUSED_ATTENTION}
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        fused[torch.ops.mkldnn._linear_pointwise] = _torch_linear
    counter = FlopCounterMode(display=False, custom_mapping=fused)
    # The counter, which is the inner mode, decomposes operators: the record, outside, has what remains to run.
    with torch.no_grad(), _OperatorRecord() as record, counter:
        model(*inputs)
    unknown = {
        str(operator)
        for operator in record.operators
        if operator not in counter.flop_registry and not _is_free(str(operator))
    }
    if unknown:
        raise UnknownOperator("torch", unknown)
    counted = counter.get_flop_counts().get("Global", {})
    return Count("torch", {_bare(str(name)): value / 2 for name, value in sorted(counted.items(), key=str)})


class _OperatorRecord(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operator that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators[func.overloadpacket if hasattr(func, "overloadpacket") else func] += 1
        return func(*args, **(kwargs or {}))


class _ConvolutionOffMeta(TorchFunctionMode):
    """Runs a meta convolution on zeros: traced on meta it fails, or is left out of the graph that fvcore reads."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.conv2d and args[0].is_meta:
            zeros: list[Any] = [torch.zeros(a.shape, dtype=a.dtype) if isinstance(a, Tensor) else a for a in args]
            return func(*zeros, **(kwargs or {})).to("meta")
        return func(*args, **(kwargs or {}))


def _fvcore_attention(inputs: list[Any], outputs: list[Any]) -> int:
    from fvcore.nn.jit_handles import get_shape

    return attention_products(*(get_shape(value) for value in inputs[:3]))


def _torch_attention(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return 2 * attention_products(query, key, value)


def _torch_linear(x: Sequence[int], weight: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """A linear layer of oneDNN with an activation: x (..., K) and a weight (O, K)."""
    return 2 * math.prod(x) * weight[0]


def _is_free(name: str) -> bool:
    return name.startswith(("aten::", "aten.", "mkldnn.")) and _bare(name) in _FREE_NAMES


def _bare(name: str) -> str:
    """`aten::add_` or `aten.add_` -> `add`."""
    return name.removeprefix("aten::").removeprefix("aten.").removeprefix("mkldnn.").removesuffix("_")
