"""Realised inference: the masked evaluation-mode forward without the work that its masks switch off.

TDW: masks depend on the timestep alone, so a `WidthPlan` holds them for every step before a run starts; the weights
of the open heads and channel groups are copied out once per distinct mask and reused over steps and images.
SDT: the selected tokens of the whole batch are gathered, and norm, modulation and MLP see them only.

Shape letters: N images, T tokens, L blocks, C hidden size, H heads, D head width, S selected tokens of the batch.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from dydit.dit import Attention, DiT, DiTBlock, Mlp
from dydit.dydit import DyDiT, DyDiTBlock
from dydit.errors import InputError
from dydit.routing import Routing

MEMORY_SHARE = 0.5
"""Default bound on all copied weights, as a share of the model's own memory."""

Widths = tuple[Tensor, Tensor]
"""Head and channel-group masks of one timestep, bool (L, H) each, on the CPU."""


class WidthPlan:
    """Which heads and channel groups are open at every timestep of a run.

    Args:
        widths: original timestep -> masks (L, H) of heads and of channel groups; the first of each is always open.

    Raises:
        InputError: no timestep, or masks that are not two bool (L, H) of one shape with open first columns.
    """

    def __init__(self, widths: dict[int, Widths]) -> None:
        if not widths:
            raise InputError("width plan: no timestep; give those that the run will visit")
        shapes = {tuple(mask.shape) for pair in widths.values() for mask in pair}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise InputError(f"width plan: masks of shapes {sorted(shapes)}; all must share one (blocks, heads)")
        if not all(bool(mask[:, 0].all()) for pair in widths.values() for mask in pair):
            raise InputError("width plan: the first head and channel group are always on; open column 0 of every mask")
        self.widths = {t: (heads.bool().cpu(), channels.bool().cpu()) for t, (heads, channels) in widths.items()}

    @classmethod
    @torch.no_grad()
    def from_routers(cls, model: DyDiT, timesteps: Iterable[int]) -> WidthPlan:
        """Ask the TDW routers of an evaluation-mode model."""
        steps = sorted(set(timesteps))
        device = model.pos_embed.device
        t_emb = model.t_embedder(torch.tensor(steps, device=device))
        blocks = [block for block in model.blocks if isinstance(block, DyDiTBlock)]
        heads = torch.stack([block.attn_rate(t_emb) for block in blocks], dim=1).bool().cpu()
        channels = torch.stack([block.mlp_rate(t_emb) for block in blocks], dim=1).bool().cpu()
        return cls({t: (heads[i], channels[i]) for i, t in enumerate(steps)})

    @classmethod
    def constant(cls, routing: Routing, timesteps: Iterable[int]) -> WidthPlan:
        """The widths of a given routing (those of its first image) at every timestep."""
        return cls({t: (routing.heads[0].bool(), routing.channels[0].bool()) for t in timesteps})

    def check(self, model: DyDiT) -> None:
        """Raise InputError when the plan was made for a model of another depth or head count."""
        shape = tuple(next(iter(self.widths.values()))[0].shape)
        wanted = (model.config.depth, model.config.num_heads)
        if shape != wanted:
            raise InputError(
                f"width plan: made for {shape} (blocks, heads), the model has {wanted}; plan for this model"
            )

    def at(self, timestep: int) -> Widths:
        """Masks of one timestep; InputError when the plan does not hold it."""
        if timestep not in self.widths:
            known = f"{len(self.widths)} timesteps from {min(self.widths)} to {max(self.widths)}"
            raise InputError(f"width plan: made for {known}, the run is at {timestep}; plan for the run's timesteps")
        return self.widths[timestep]


@dataclass(frozen=True)
class AttentionWeights:
    """Weights of the open heads: qkv (3 h D, C), proj (C, h D)."""

    heads: int
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor

    @classmethod
    def take(cls, attention: Attention, mask: Tensor) -> AttentionWeights:
        """Copies of the open slices; views of the whole weights when everything is open."""
        qkv, proj, heads = attention.qkv, attention.proj, attention.heads
        if mask.all():
            return cls(heads, qkv.weight, qkv.bias, proj.weight, proj.bias)
        index = mask.nonzero().squeeze(1).to(qkv.weight.device)
        width = qkv.in_features
        rows = qkv.weight.view(3, heads, -1, width).index_select(1, index).reshape(-1, width)
        bias = qkv.bias.view(3, heads, -1).index_select(1, index).flatten()
        columns = proj.weight.view(width, heads, -1).index_select(1, index).reshape(width, -1)
        return cls(len(index), rows, bias, columns, proj.bias)

    @property
    def copied_bytes(self) -> int:
        return (self.qkv.numel() + self.proj.numel()) * self.qkv.element_size()


@dataclass(frozen=True)
class MlpWeights:
    """Weights of the open channel groups: fc1 (hidden, C), fc2 (C, hidden)."""

    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor

    @classmethod
    def take(cls, mlp: Mlp, mask: Tensor) -> MlpWeights:
        """Copies of the open slices; views of the whole weights when everything is open."""
        fc1, fc2 = mlp.fc1, mlp.fc2
        if mask.all():
            return cls(fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        index = mask.nonzero().squeeze(1).to(fc1.weight.device)
        groups, width = len(mask), fc1.in_features
        rows = fc1.weight.view(groups, -1, width).index_select(0, index).reshape(-1, width)
        bias = fc1.bias.view(groups, -1).index_select(0, index).flatten()
        columns = fc2.weight.view(width, groups, -1).index_select(1, index).reshape(width, -1)
        return cls(rows, bias, columns, fc2.bias)

    @property
    def copied_bytes(self) -> int:
        return (self.fc1.numel() + self.fc2.numel()) * self.fc1.element_size()


Slices = AttentionWeights | MlpWeights


class SliceCache:
    """Weights by (block, mask), their copies bounded to `limit` bytes.

    The least recently used give way, but never to a slice of the same forward: dropping what the next forward needs
    first would copy everything anew each time. What does not fit is copied for one use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.misses = 0
        self._forward = 0
        self._entries: OrderedDict[tuple[str, int, bytes], tuple[int, Slices]] = OrderedDict()

    def next_forward(self) -> None:
        """Slices used before this call may give way to those used after it."""
        self._forward += 1

    def attention(self, index: int, attention: Attention, mask: Tensor) -> AttentionWeights:
        """Slices of one block's attention; the whole weights, uncopied, when everything is open."""
        found = self._get(("attention", index, _key(mask)), mask, lambda: AttentionWeights.take(attention, mask))
        assert isinstance(found, AttentionWeights)
        return found

    def mlp(self, index: int, mlp: Mlp, mask: Tensor) -> MlpWeights:
        """Slices of one block's MLP; the whole weights, uncopied, when everything is open."""
        found = self._get(("mlp", index, _key(mask)), mask, lambda: MlpWeights.take(mlp, mask))
        assert isinstance(found, MlpWeights)
        return found

    def _get(self, key: tuple[str, int, bytes], mask: Tensor, take: Callable[[], Slices]) -> Slices:
        if key in self._entries:
            _, weights = self._entries.pop(key)
            self._entries[key] = (self._forward, weights)
            return weights
        weights = take()
        if mask.all():  # views cost nothing
            return weights
        self.misses += 1
        while self._entries and self.bytes + weights.copied_bytes > self.limit:
            oldest = next(iter(self._entries))
            last_used, dropped = self._entries[oldest]
            if last_used == self._forward:
                return weights
            del self._entries[oldest]
            self.bytes -= dropped.copied_bytes
        if weights.copied_bytes <= self.limit:
            self.bytes += weights.copied_bytes
            self._entries[key] = (self._forward, weights)
        return weights


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
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = linear(condition)[:, None].chunk(6, dim=-1)
    return shift_a, scale_a + 1, gate_a, shift_m, scale_m + 1, gate_m


def _normalise(x: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), eps=1e-6)


def _mlp(x: Tensor, weights: MlpWeights) -> Tensor:
    with span("MLP"):
        hidden = F.linear(x, weights.fc1, weights.fc1_bias)
        return F.linear(F.gelu(hidden, approximate="tanh"), weights.fc2, weights.fc2_bias)


def span(name: str) -> contextlib.AbstractContextManager[object]:
    """Name a part of the forward for a profiler; nothing when none is watching."""
    return record_function(name) if torch.autograd._profiler_enabled() else _NO_SPAN  # type: ignore[attr-defined]


_NO_SPAN = contextlib.nullcontext()


def _key(mask: Tensor) -> bytes:
    return bytes(mask.to(torch.uint8).tolist())


_OPEN = torch.ones(1, dtype=torch.bool)
