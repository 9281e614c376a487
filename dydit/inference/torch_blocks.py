"""The parts of a transformer block as an engine computes them, with torch alone, on any device.

They are the default on the CPU, and on a GPU where Triton is not installed; elsewhere `TritonBlocks` of
triton_blocks.py takes their place.

Shape letters: N images, T tokens, R = N * T rows, S selected rows, C hidden size, h open heads, D head width.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydit.inference import cpu_kernels
from dydit.inference.products import arithmetic_of
from dydit.inference.spans import span
from dydit.inference.weight_slices import AttentionWeights, MlpWeights, ModulationWeights, Pack
from dydit.routing import TokenRouter

SELECTED = "MLP of selected tokens"
"""What `ran_in` calls the part that a static model has not."""


class Modulation(NamedTuple):
    """Of one half of a block, (N, 1, C) each: LayerNorm is scaled by 1 + scale and shifted, the update is gated."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class Scratch:
    """Named buffers that grow to the largest request.

    The C library returns large blocks to the system when they are freed, and each page of a new block costs a page
    fault. On a GPU torch's own allocator keeps memory, so there every request is a new tensor.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape, with the dtype and device of `like`.

        It shares memory with the previous tensor of the same name, whose content is lost.
        """
        if like.is_cuda:
            return like.new_empty(shape)
        size, key = math.prod(shape), (name, like.dtype)
        if key not in self._buffers or len(self._buffers[key]) < size:
            self._buffers[key] = like.new_empty(size)
        return self._buffers[key][:size].view(shape)

    def release(self) -> None:
        """Free the memory of all buffers."""
        self._buffers.clear()


class TorchBlocks:
    """The parts of a block, computed by torch. Tokens (N, T, C) are updated in place.

    The selected tokens are gathered by their number, for which the host asks the device once per block. An object
    serves one forward at a time, whose intermediates lie in buffers of `scratch`: "narrow" holds rows of C (the
    normalised tokens, then their update), "wide" what is computed between these two (queries, keys and values, or the
    MLP's hidden channels), "spare" what GELU needs beside it. Kernels that make their own results, such as oneDNN's,
    leave these buffers aside.

    Args:
        packs: whether weights may be copied into oneDNN's layout, which torch.compile cannot read.
    """

    waits = True
    """Whether the host asks the device for the number of selected tokens, so that no CUDA graph can hold a forward."""
    tunable = False
    """Whether there are several forms of a part, among which `tuning` finds the fastest."""

    def __init__(self, packs: bool = True) -> None:
        self.scratch = Scratch()
        self._packs = packs

    def packing(self, like: Tensor) -> Pack | None:
        """What copies weights into the layout that products read fastest, on the device and in the dtype of `like`.

        None where that is their own.
        """
        return cpu_kernels.packed if self._packs and cpu_kernels.serves(like) else None

    def modulations(self, condition: Tensor, weights: ModulationWeights) -> tuple[Modulation, Modulation]:
        """Those of attention and of the MLP, from the activated condition (N, C)."""
        if cpu_kernels.serves(condition):
            six = cpu_kernels.linear(condition, weights.weight, weights.bias)
        elif condition.is_cuda:
            six = F.linear(condition, weights.weight, weights.bias)
        else:
            six = _few_rows(condition, weights)
        parts = six[:, None].chunk(6, dim=-1)
        return Modulation(*parts[:3]), Modulation(*parts[3:])

    def attend(self, hidden: Tensor, weights: AttentionWeights, modulation: Modulation) -> None:
        """Add the gated attention of the open heads."""
        with span("norm"):
            normed = self.modulated(hidden, modulation)
        out = self.heads(normed, weights)
        with span("proj"):
            self.add_gated(hidden, self.product("narrow", out, weights.proj, weights.proj_bias), modulation.gate)

    def heads(self, x: Tensor, weights: AttentionWeights) -> Tensor:
        """What the open heads gather over tokens (N, T, C), before projection: (N, T, h D)."""
        n, tokens, _ = x.shape
        with span("qkv"):
            qkv = self.product("wide", x, weights.qkv, weights.qkv_bias).view(n, tokens, 3, weights.heads, -1)
        with span("attention"):
            return cpu_kernels.attention(*qkv.permute(2, 0, 3, 1, 4))  # (N, h, T, D) each

    def update_all(self, hidden: Tensor, weights: MlpWeights, modulation: Modulation) -> None:
        """Add the gated MLP of every token."""
        with span("norm"):
            normed = self.modulated(hidden, modulation)
        with span("MLP"):
            out = self.mlp(normed, weights)
        with span("scatter"):
            self.add_gated(hidden, out, modulation.gate)

    def select_tokens(self, hidden: Tensor, router: nn.Module, override: Tensor | None) -> Any:
        """The tokens that the router selects, in the form that `update_selected` takes.

        `override`, bool (N, T), replaces the router's decision; the router runs all the same, so that its time is
        part of a timed forward.
        """
        gate = token_gate(hidden, router)
        return open_tokens(hidden, gate) if override is None else override

    def update_selected(self, hidden: Tensor, selected: Any, weights: MlpWeights, modulation: Modulation) -> None:
        """Add the gated MLP of the selected tokens; the others keep their value."""
        shift, scale, gate = (m.squeeze(1) for m in modulation)
        flat = hidden.view(-1, hidden.shape[-1])
        with span("gather"):
            index = selected.flatten().nonzero().squeeze(1)  # (S,), ascending: an image's tokens stay together
        if len(index) == 0:
            return
        if len(index) == selected.numel():
            return self.update_all(hidden, weights, modulation)
        with span("gather"):
            ends = selected.sum(1).cumsum(0).tolist()
            spans = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        with span("norm"):
            normed, scale = self.scratch("narrow", flat, len(index), flat.shape[-1]), scale + 1
            torch.index_select(flat, 0, index, out=normed)
            for image, rows in enumerate(spans):
                normed[rows] = _normalise(normed[rows], scale[image], shift[image])
        with span("MLP"):
            out = self.mlp(normed, weights)
        with span("scatter"):
            for image, rows in enumerate(spans):
                out[rows].mul_(gate[image])
            flat.index_add_(0, index, out)

    def modulated(self, hidden: Tensor, modulation: Modulation) -> Tensor:
        """LayerNorm of every token, scaled and shifted, (N, T, C)."""
        normed, scale = self.scratch("narrow", hidden, *hidden.shape), modulation.scale + 1
        if hidden.is_cuda or hidden[0].numel() < _LARGE_IMAGE:
            return torch.addcmul(modulation.shift, _normalise(hidden), scale, out=normed)
        for image, shift, factor, out in zip(hidden, modulation.shift, scale, normed, strict=True):
            out.copy_(_normalise(image, factor[0], shift[0]))
        return normed

    def product(self, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x (..., K) @ weight (O, K)^T + bias (O,) -> (..., O), which may lie in the scratch of this name."""
        flat = x.reshape(-1, x.shape[-1])
        if cpu_kernels.serves(x):
            result = cpu_kernels.linear(flat, weight, bias)
        else:
            result = torch.addmm(bias, flat, weight.t(), out=self.scratch(name, x, len(flat), len(weight)))
        return result.view(*x.shape[:-1], len(weight))

    def mlp(self, x: Tensor, weights: MlpWeights) -> Tensor:
        """The MLP of tokens (..., C), same shape; it may lie in "narrow", as x may."""
        flat = x.reshape(-1, x.shape[-1])
        # The first two products apply GELU in its tanh form, which saves a pass over the hidden channels.
        if x.is_cuda:
            hidden = torch._addmm_activation(weights.fc1_bias, flat, weights.fc1.t(), use_gelu=True)
        elif cpu_kernels.serves(x):
            hidden = cpu_kernels.linear(flat, weights.fc1, weights.fc1_bias, "gelu")
        else:
            hidden = self.product("wide", flat, weights.fc1, weights.fc1_bias)
            cpu_kernels.gelu_(hidden, self.scratch("spare", hidden, *hidden.shape))
        return self.product("narrow", hidden, weights.fc2, weights.fc2_bias).view_as(x)

    def add_gated(self, hidden: Tensor, update: Tensor, gate: Tensor) -> None:
        """hidden += gate * update."""
        hidden.addcmul_(gate, update)

    def ran_in(self, dtype: torch.dtype, device: torch.device) -> dict[str, str]:
        """By what, and in which arithmetic, the parts of a forward in this dtype compute; for the record of a run."""
        arithmetic = arithmetic_of(dtype, device)
        return {"products": f"torch, {arithmetic}", SELECTED: f"torch, {arithmetic}"}

    def tuning(self) -> contextlib.AbstractContextManager[object]:
        """Inside this context a forward finds the fastest form of each part, where there are several."""
        return contextlib.nullcontext()


def token_gate(hidden: Tensor, router: nn.Module) -> Tensor:
    """What the router makes of tokens (N, T, C): a gate (N, T). On a CPU oneDNN computes its only large product.

    It is narrow, a sixteenth of C in the published networks, at which torch's own product takes twice as long.
    """
    if type(router) is not TokenRouter or not cpu_kernels.serves(hidden):
        return router(hidden)  # type: ignore[no-any-return]
    first, second = router.mlp_head[0], router.mlp_head[2]
    assert isinstance(first, nn.Linear)
    inner = cpu_kernels.linear(hidden.view(-1, hidden.shape[-1]), first.weight, first.bias, "relu")
    return router.gate(second(inner).view(hidden.shape[:-1]))


def open_tokens(hidden: Tensor, gate: Tensor) -> Tensor:
    """The tokens (N, T), bool, whose gate is open; a token of `hidden` (N, T, C) whose gate is NaN becomes NaN itself.

    One channel is enough: norms and attention spread it. So it is seen in the output, as in the masked forward.
    """
    hidden[..., 0].masked_fill_(gate.isnan(), torch.nan)
    return gate.bool()


def _few_rows(x: Tensor, layer: ModulationWeights) -> Tensor:
    """A linear layer of few rows, whose cost is reading the weights: up to 4x faster with them as the left operand."""
    parts = torch.split(x, 4) if len(x) <= 12 else [x]
    return torch.cat([torch.addmm(layer.bias[:, None], layer.weight, part.t()).t() for part in parts])


def _normalise(x: Tensor, factor: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """LayerNorm of rows (..., C); its result times `factor` (C,) plus `shift` (C,), unless these are None."""
    return F.layer_norm(x, (x.shape[-1],), factor, shift, eps=1e-6)


_LARGE_IMAGE = 2**15
"""From this T * C on, the CPU normalises image by image: LayerNorm can then scale and shift in its own pass, because it
takes one vector of each."""
