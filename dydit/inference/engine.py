"""Realised inference: the masked evaluation-mode forward without the work that its masks switch off.

TDW: masks depend on the timestep alone, so a `WidthPlan` holds them for every step before a run starts; the weights
of the open heads and channel groups are copied out once per distinct mask and reused over steps and images.
SDT: the selected tokens of the whole batch are gathered, and norm, modulation and MLP see them only.

Shape letters: N images, T tokens, L blocks, C hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dydit.dit import DiT, DiTBlock
from dydit.dydit import DyDiT, DyDiTBlock
from dydit.errors import InputError
from dydit.inference.spans import span
from dydit.inference.torch_blocks import DenseKernels, Kernels, Modulation
from dydit.inference.weight_slices import MEMORY_SHARE, AttentionWeights, MlpWeights, SliceCache
from dydit.inference.width_plan import WidthPlan


class Engine:
    """A static DiT, or a DyDiT with its skipping realised, as a sampling model: (x, t, y) -> output.

    Both kinds run the same code with the same kernels, so that the static side is as fast as this project can make it.
    An engine keeps slices of weights and, on the CPU, memory for intermediates: call it from one thread at a time.

    Args:
        model: in evaluation mode, on its device and in its dtype.
        plan: widths by timestep; required for a DyDiT, refused for a static model.
        tokens: bool (N, L, T) token masks to use instead of the SDT routers' own decisions (the routers still run,
            so that a timed forward pays for them); for synthetic routing.
        memory_share: bound on copied weights relative to the model's own memory.
        kernels: how the parts of a block are computed: "torch", "dense" or "triton" (see kernels.py); by default
            "triton" on a CUDA device, "torch" on the CPU.

    Raises:
        InputError: model in training mode, plan missing or made for another model, kernels that cannot run here.
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
        self.kernels = kernels_for(kernels, model.pos_embed.device)
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
        """Let the kernels choose their fastest form for the shapes of this batch; nothing where they have only one.

        Tuned engines of one process share what was chosen, and differ from others by rounding.
        """
        with self.kernels.tuning():
            self(x, t, y)

    def run(self, x: Tensor, t: Tensor, y: Tensor, step: int, tokens: Tensor | None) -> Tensor:
        """One forward in which every image is at timestep `step`; on CUDA it never waits for the device."""
        model, config, kernels = self.model, self.model.config, self.kernels
        if tokens is not None and tuple(tokens.shape) != (len(x), config.depth, config.tokens):
            wanted = (len(x), config.depth, config.tokens)
            raise InputError(f"engine: token masks of shape {tuple(tokens.shape)}, the batch needs {wanted}")
        self.cache.next_forward()
        with span("embedding"):
            hidden, _, c = model.embed(x, t, y)
            condition = F.silu(c)
            hidden = hidden.contiguous()
        for index, block in enumerate(model.blocks):
            assert isinstance(block, DiTBlock)
            attention, mlp = self.weights(index, step)
            with span("modulation"):
                six = kernels.linear(condition, block.adaLN_modulation[1])[:, None].chunk(6, dim=-1)
            kernels.attend(hidden, attention, Modulation(*six[:3]))
            if isinstance(block, DyDiTBlock):
                given = None if tokens is None else tokens[:, index]
                with span("token routing"):
                    chosen = kernels.choose(hidden, block.token_selection, given)
                kernels.update_chosen(hidden, chosen, mlp, Modulation(*six[3:]))
            else:
                kernels.update_all(hidden, mlp, Modulation(*six[3:]))
        with span("final layer"):
            return model.unpatchify(model.final_layer(hidden, c))

    def weights(self, index: int, step: int) -> tuple[AttentionWeights, MlpWeights]:
        """The open weights of one block at timestep `step`."""
        block = self.model.blocks[index]
        assert isinstance(block, DiTBlock)
        if self.plan is None:
            return AttentionWeights.whole(block.attn), MlpWeights.whole(block.mlp)
        heads, channels = self.plan.opened(step)
        return (
            self.cache.attention(index, block.attn, heads[index]),
            self.cache.mlp(index, block.mlp, channels[index], block.attn.heads),
        )


def kernels_for(name: str | None, device: torch.device) -> Kernels:
    """The kernels that a name stands for; without one, "triton" on a CUDA device and "torch" elsewhere.

    Raises:
        InputError: an unknown name, or "triton" where Triton is not installed or has no device.
    """
    name = name or ("triton" if device.type == "cuda" else "torch")
    if name == "triton":
        from dydit.inference.triton_blocks import FusedKernels  # here: Triton is not installed everywhere

        return FusedKernels(device)
    if name not in ("torch", "dense"):
        raise InputError(f'kernels: "{name}" is unknown; choose "torch", "dense" or "triton"')
    return Kernels() if name == "torch" else DenseKernels()
