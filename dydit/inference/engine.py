"""Realised inference: the masked evaluation-mode forward without the work that its masks switch off.

TDW: these masks depend on the timestep alone, so a `WidthPlan` holds them for every timestep before a run starts; the
weights of the open heads and channel groups are copied once per distinct mask and reused over steps and images.
SDT: the selected tokens of the whole batch are gathered, and only they pass norm, modulation and MLP.

Shape letters: N images, T tokens, L blocks, C hidden size.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dydit.dit import DiT, DiTBlock
from dydit.dydit import DyDiT, DyDiTBlock
from dydit.errors import InputError
from dydit.inference.spans import span
from dydit.inference.torch_blocks import SELECTED, TorchBlocks
from dydit.inference.weight_slices import MEMORY_SHARE, AttentionWeights, MlpWeights, SliceCache
from dydit.inference.width_plan import WidthPlan


class Engine:
    """A static DiT, or a DyDiT with its skipping realised, as a sampling model: (x, t, y) -> output.

    Both run the same code, so that the static side is as fast as this project can make it. An engine keeps copies of
    weights (make a new one where the model's change) and, on the CPU, memory for intermediates: call it from one thread
    at a time.

    Args:
        model: in evaluation mode, on its device and in its dtype.
        plan: widths by timestep; required for a DyDiT, refused for a static model.
        tokens: bool (N, L, T) token masks to use instead of the SDT routers' own decisions, for synthetic routing; the
            routers run all the same, so that their time is part of a timed forward.
        memory_share: bound on copied slices of weights relative to the model's own memory. Where oneDNN multiplies,
            whole weights are copied into its layout besides.
        backend: what computes the parts of a block; by default `TritonBlocks` on a CUDA device, where Triton is
            installed, and `TorchBlocks` elsewhere.

    Raises:
        InputError: no DiT, such as what torch.compile made of one; the model is in training mode, or the plan is
            missing or made for another model.
    """

    def __init__(
        self,
        model: DiT,
        plan: WidthPlan | None = None,
        tokens: Tensor | None = None,
        memory_share: float = MEMORY_SHARE,
        backend: TorchBlocks | None = None,
    ) -> None:
        if not isinstance(model, DiT):  # its blocks would run, and its routers be passed over
            raise InputError(f"engine: {type(model).__name__} is no DiT or DyDiT; give the network inside of it")
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
        self.backend = backend or default_blocks(model.pos_embed.device)
        own = sum(p.numel() * p.element_size() for p in model.parameters())
        self.cache = SliceCache(int(memory_share * own), self.backend.packing(model.pos_embed))

    @torch.inference_mode()
    def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """As `DiT.forward`; a batch that mixes timesteps runs once per distinct timestep.

        With a plan, timesteps that lie on a GPU are fetched first; a number is known without waiting for the device.

        Raises:
            InputError: as `DiT.check_inputs`; the plan lacks a timestep, or the token masks have another shape.
        """
        self.model.check_inputs(x, t, y)
        steps = self.steps(t)
        if len(steps) == 1:
            return self.run(x, t, y, steps[0], self.tokens)
        assert isinstance(t, Tensor)
        output: Tensor | None = None
        for step in steps:
            rows = (t == step).nonzero().squeeze(1)
            part = self.run(x[rows], t[rows], y[rows], step, None if self.tokens is None else self.tokens[rows])
            output = part.new_empty(len(x), *part.shape[1:]) if output is None else output
            output[rows] = part
        assert output is not None
        return output

    def steps(self, t: Tensor | int) -> list[int]:
        """The distinct timesteps of a call whose widths must be known, ascending; [0] where nothing depends on them."""
        if not isinstance(t, Tensor):
            return [t]
        return sorted(set(t.tolist())) if self.plan is not None else [0]

    @torch.inference_mode()
    def tune(self, rows: int) -> None:
        """Let the backend find its fastest form for every width of the plan and `rows` images, where it has several.

        All engines of a process use what was chosen. A tuned engine differs from an untuned one by rounding.
        """
        if self.plan is None or not self.backend.tunable:
            return
        config, table = self.model.config, self.model.pos_embed
        shape = (rows, config.in_channels, config.input_size, config.input_size)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(table)
        y = torch.zeros(rows, dtype=torch.int64, device=table.device)
        with self.backend.tuning():
            for step in self.plan.with_every_width():
                self.run(x, step, y, step, self.tokens)

    def ran_in(self) -> dict[str, str]:
        """By what, and in which arithmetic, the parts of a forward compute as torch's settings are now."""
        parts = self.backend.ran_in(self.model.pos_embed.dtype, self.model.pos_embed.device)
        return parts if self.plan is not None else {name: by for name, by in parts.items() if name != SELECTED}

    def run(self, x: Tensor, t: Tensor | int, y: Tensor, step: int, tokens: Tensor | None) -> Tensor:
        """One forward in which every image is at timestep `step`; with Triton it never waits for a CUDA device."""
        model, config = self.model, self.model.config
        if tokens is not None and tuple(tokens.shape) != (len(x), config.depth, config.tokens):
            wanted = (len(x), config.depth, config.tokens)
            raise InputError(f"engine: token masks of shape {tuple(tokens.shape)}, the batch needs {wanted}")
        if self.plan is not None:  # else nothing is cached, and torch.compile would compile anew at every count
            self.cache.next_forward()
        with span("embedding"):
            hidden, _, c = model.embed(x, t, y)
            condition = F.silu(c)
            hidden = hidden.contiguous()
        self.run_blocks(hidden, lambda index: self._run_block(index, hidden, condition, step, tokens))
        with span("final layer"):
            return model.unpatchify(model.final_layer(hidden, c))

    def run_blocks(self, hidden: Tensor, run_block: Callable[[int], None]) -> None:
        """Update the tokens (N, T, C) in place by every block in turn; baselines leave some out."""
        for index in range(self.model.config.depth):
            run_block(index)

    def _run_block(self, index: int, hidden: Tensor, condition: Tensor, step: int, tokens: Tensor | None) -> None:
        block, backend = self.model.blocks[index], self.backend
        assert isinstance(block, DiTBlock)
        attention, mlp = self.weights(index, step)
        with span("modulation"):
            of_attention, of_mlp = backend.modulations(condition, self.cache.modulation(index, block.adaLN_modulation))
        backend.attend(hidden, attention, of_attention)
        if isinstance(block, DyDiTBlock):
            override = None if tokens is None else tokens[:, index]
            with span("token routing"):
                selected = backend.select_tokens(hidden, block.token_selection, override)
            backend.update_selected(hidden, selected, mlp, of_mlp)
        else:
            backend.update_all(hidden, mlp, of_mlp)

    def weights(self, index: int, step: int) -> tuple[AttentionWeights, MlpWeights]:
        """The open weights of one block at timestep `step`."""
        block = self.model.blocks[index]
        assert isinstance(block, DiTBlock)
        heads = channels = None
        if self.plan is not None:
            heads, channels = (blocks[index] for blocks in self.plan.open_indices(step))
        return (
            self.cache.attention(index, block.attn, heads),
            self.cache.mlp(index, block.mlp, channels, block.attn.heads),
        )


def default_blocks(device: torch.device) -> TorchBlocks:
    """What computes the parts of a block on this device, unless an engine is given something else."""
    if device.type != "cuda":
        return TorchBlocks()
    from dydit.inference.triton_blocks import TritonBlocks  # here: on the CPU nothing of it is needed

    try:
        return TritonBlocks(device)
    except InputError as error:
        _tell_once(f"{error}; until then torch alone computes, and waits for the GPU once per block that skips tokens")
        return TorchBlocks()


@functools.cache
def _tell_once(line: str) -> None:
    """Say something once in a process, on standard error unless logging is set up otherwise."""
    logging.getLogger(__name__).warning(line)
