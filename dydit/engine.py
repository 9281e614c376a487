"""Realised inference: the masked evaluation-mode forward without the work that its masks switch off.

TDW: masks depend on the timestep alone, so a `WidthPlan` holds them for every step before a run starts; the weights
of the open heads and channel groups are copied out once per distinct mask and reused over steps and images.
SDT: the selected tokens of the whole batch are gathered, and norm, modulation and MLP see them only.

Shape letters: N images, T tokens, L blocks, C hidden size, H heads, D head width, S selected tokens of the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydit.dit import DiT, DiTBlock
from dydit.dydit import DyDiT, DyDiTBlock
from dydit.errors import InputError
from dydit.slices import MEMORY_SHARE, AttentionWeights, MlpWeights, SliceCache, WidthPlan


class Engine:
    """A static DiT, or a DyDiT with its skipping realised, as a sampling model: (x, t, y) -> output.

    Both kinds run the same code with the same kernels, so that the static side is as fast as this project can make it.

    Args:
        model: in evaluation mode, on its device and in its dtype.
        plan: widths by timestep; required for a DyDiT, refused for a static model.
        tokens: bool (N, L, T) token masks to use instead of the SDT routers' own decisions (the routers still run,
            so that a timed forward pays for them); for synthetic routing.
        memory_share: bound on copied weights relative to the model's own memory.
        kernels: how the MLP skips tokens, "triton" or "dense" (see kernels.py); by default "triton" on a CUDA device,
            and on the CPU a gather by torch, which asks the host for the token count.

    Raises:
        InputError: model in training mode, plan missing or made for another model.
    """

    def __init__(
        self,
        model: DiT,
        plan: WidthPlan | None = None,
        tokens: Tensor | None = None,
        memory_share: float = MEMORY_SHARE,
        kernels: str | None = None,
    ) -> None:
        if model.training:
            raise InputError("engine: the model is in training mode, where gates are random; call model.eval() first")
        if isinstance(model, DyDiT) and not model.realised:
            raise InputError(f"engine: a {type(model).__name__} skips in its own way; run it masked")
        if isinstance(model, DyDiT) != (plan is not None):
            raise InputError(f"engine: a {type(model).__name__} {'needs a' if plan is None else 'takes no'} width plan")
        if plan is not None and isinstance(model, DyDiT):
            plan.check(model)
        self.model = model
        self.plan = plan
        self.tokens = tokens
        self.update = _update_function(kernels, model.pos_embed.device)
        own = sum(p.numel() * p.element_size() for p in model.parameters())
        self.cache = SliceCache(int(memory_share * own))

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """As `DiT.forward`. A batch that mixes timesteps is run once per distinct timestep.

        Raises:
            InputError: a timestep that the plan does not hold, or token masks of another shape.
        """
        steps = sorted(set(t.tolist())) if self.plan is not None else [0]
        if len(steps) == 1:
            return self.run(x, t, y, steps[0], self.tokens)
        output: Tensor | None = None
        for step in steps:
            rows = (t == step).nonzero().squeeze(1)
            part = self.run(x[rows], t[rows], y[rows], step, None if self.tokens is None else self.tokens[rows])
            output = part.new_empty(len(x), *part.shape[1:]) if output is None else output
            output[rows] = part
        assert output is not None
        return output

    def tune(self, x: Tensor, t: Tensor, y: Tensor) -> None:
        """Choose the fastest tiles of the Triton kernels for the shapes of this batch; nothing where they do not run.

        Tuned engines of one process share their tiles, and differ from others by rounding.
        """
        from dydit import kernels  # here, since kernels.py builds on this file

        if self.plan is not None and self.update is kernels.update_selected:
            self.update = kernels.tune_and_update
            self(x, t, y)
            self.update = kernels.update_selected

    def run(self, x: Tensor, t: Tensor, y: Tensor, step: int, tokens: Tensor | None) -> Tensor:
        """One forward in which every image is at timestep `step`; on CUDA it never waits for the device."""
        model, config = self.model, self.model.config
        if tokens is not None and tuple(tokens.shape) != (len(x), config.depth, config.tokens):
            wanted = (len(x), config.depth, config.tokens)
            raise InputError(f"engine: token masks of shape {tuple(tokens.shape)}, the batch needs {wanted}")
        widths = self.plan.at(step) if self.plan is not None else None
        self.cache.next_forward()
        with span("embedding"):
            hidden, _, c = model.embed(x, t, y)
            condition = F.silu(c)
            hidden = hidden.contiguous()
        for index, block in enumerate(model.blocks):
            assert isinstance(block, DiTBlock)
            with span("modulation"):
                modulation = _modulations(block.adaLN_modulation, condition)
            self._attend(hidden, block, index, modulation[:3], None if widths is None else widths[0][index])
            if isinstance(block, DyDiTBlock) and widths is not None:
                with span("token routing"):
                    chosen = block.token_selection(hidden).bool()
                if tokens is not None:
                    chosen = tokens[:, index]
                weights = self.cache.mlp(index, block.mlp, widths[1][index])
                self.update(hidden, chosen, weights, modulation[3:])
            else:
                update_all(hidden, MlpWeights.take(block.mlp, _OPEN), modulation[3:])
        with span("final layer"):
            return model.unpatchify(model.final_layer(hidden, c))

    def _attend(
        self, hidden: Tensor, block: DiTBlock, index: int, modulation: tuple[Tensor, ...], mask: Tensor | None
    ) -> None:
        attention = block.attn
        weights = (
            AttentionWeights.take(attention, _OPEN) if mask is None else self.cache.attention(index, attention, mask)
        )
        attend(hidden, weights, modulation)


def attend(hidden: Tensor, weights: AttentionWeights, modulation: tuple[Tensor, ...]) -> None:
    """Add gated attention of the open heads to tokens (N, T, C), in place."""
    size = _rows(hidden, hidden.shape[1] * len(weights.qkv))
    if len(hidden) > size:
        for part, *vectors in zip(_parts(hidden, size), *(_parts(m, size) for m in modulation), strict=True):
            attend(part, weights, tuple(vectors))
        return
    shift, scale, gate = modulation
    n, tokens, _ = hidden.shape
    with span("norm"):
        normed = torch.addcmul(shift, _normalise(hidden), scale)
    with span("qkv"):
        qkv = F.linear(normed, weights.qkv, weights.qkv_bias).view(n, tokens, 3, weights.heads, -1)
    with span("attention"):
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, h, T, D) each
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, -1)
    with span("proj"):
        hidden.addcmul_(gate, F.linear(out, weights.proj, weights.proj_bias))


def update_all(hidden: Tensor, weights: MlpWeights, modulation: tuple[Tensor, ...]) -> None:
    """Add the gated MLP of every token of (N, T, C), in place."""
    shift, scale, gate = modulation
    with span("norm"):
        normed = torch.addcmul(shift, _normalise(hidden), scale)
    out = _mlp(normed, weights)
    with span("scatter"):
        hidden.addcmul_(gate, out)


def update_selected(hidden: Tensor, chosen: Tensor, weights: MlpWeights, modulation: tuple[Tensor, ...]) -> None:
    """Add the gated MLP of the chosen tokens, bool (N, T), to (N, T, C), in place; the others keep their value."""
    shift, scale, gate = (m.squeeze(1) for m in modulation)
    flat = hidden.view(-1, hidden.shape[-1])
    with span("gather"):
        index = chosen.flatten().nonzero().squeeze(1)  # (S,), rising: an image's tokens stay together
    if len(index) == 0:
        return
    if len(index) == chosen.numel():
        return update_all(hidden, weights, modulation)
    with span("gather"):
        ends = chosen.sum(1).cumsum(0).tolist()
        spans = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        selected = flat.index_select(0, index)
    with span("norm"):
        normed = _normalise(selected)  # (S, C)
        for image, rows in enumerate(spans):
            torch.addcmul(shift[image], normed[rows], scale[image], out=normed[rows])
    out = _mlp(normed, weights)
    with span("scatter"):
        for image, rows in enumerate(spans):
            out[rows].mul_(gate[image])
        flat.index_add_(0, index, out)


def _update_function(kernels: str | None, device: torch.device) -> Callable[..., object]:
    from dydit.kernels import update_function  # here, since kernels.py builds on this file

    if kernels is None and device.type != "cuda":
        return update_selected
    return update_function(kernels or "triton")


def _modulations(layer: nn.Module, condition: Tensor) -> tuple[Tensor, ...]:
    """Six (N, 1, C): shift, 1 + scale and gate of attention, then of the MLP."""
    linear = layer[1]  # type: ignore[index]
    assert isinstance(linear, nn.Linear)
    out = linear(condition) if condition.is_cuda else _few_rows(condition, linear)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = out[:, None].chunk(6, dim=-1)
    return shift_a, scale_a + 1, gate_a, shift_m, scale_m + 1, gate_m


def _few_rows(x: Tensor, linear: nn.Linear) -> Tensor:
    """`linear(x)` for few rows, where reading the weights is the cost: weights on the left stream up to 4x faster."""
    parts = _parts(x, 4) if len(x) <= 12 else [x]
    return torch.cat([torch.addmm(linear.bias[:, None], linear.weight, part.t()).t() for part in parts])


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), eps=1e-6)


def _mlp(x: Tensor, weights: MlpWeights) -> Tensor:
    with span("MLP"):
        flat = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(flat)
        size = _rows(x, len(weights.fc1))
        for part, target in zip(_parts(flat, size), _parts(out, size), strict=True):
            hidden = F.linear(part, weights.fc1, weights.fc1_bias)
            torch.addmm(weights.fc2_bias, F.gelu(hidden, approximate="tanh"), weights.fc2.t(), out=target)
        return out.view_as(x)


def _parts(x: Tensor, size: int) -> list[Tensor]:
    return [x[start : start + size] for start in range(0, len(x), size)]


def _rows(x: Tensor, width: int) -> int:
    """How many rows of `width` elements to compute at once: all on a GPU, `_CHUNK` elements' worth on the CPU."""
    return len(x) * x.shape[1] if x.is_cuda else max(_CHUNK // width, 1)


_CHUNK = 2**22
"""Elements of an intermediate on the CPU: larger ones leave the caches, and the allocator returns their pages."""


Watch = Callable[[str], contextlib.AbstractContextManager[object]]
_NO_SPAN = contextlib.nullcontext()
_watch: ContextVar[Watch] = ContextVar("watch", default=lambda _: _NO_SPAN)


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Inside, every named part of a forward runs within `watch(name)`: a clock, or `torch.profiler.record_function`."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def span(name: str) -> contextlib.AbstractContextManager[object]:
    """Name a part of the forward for whoever watches."""
    return _watch.get()(name)


_OPEN = torch.ones(1, dtype=torch.bool)
