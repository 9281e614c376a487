"""A network with a method over it, as a module that is called like the network: which blocks run, and how.

Every method runs on the blocks of `dydit.inference`, and so does the network without a method: what they differ by in
time is what the methods leave out. A `Walk` decides which blocks run at a step, `StepBlocks` what a block computes.
Methods that keep something from one step for the next are told where a run begins, and refuse a step out of turn, so
that nothing of one run reaches another.

Shape letters: N images, T tokens, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dydit.config import TIMESTEPS, DiTConfig
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError
from dydit.flops import attention_macs, macs, mlp_macs
from dydit.inference import Engine, WidthPlan, span
from dydit.inference.torch_blocks import Modulation, TorchBlocks
from dydit.inference.weight_slices import AttentionWeights
from dydit.routing import Routing

RunBlock = Callable[[int], None]


class StepBlocks(TorchBlocks):
    """The parts of a block, told at which step of a run and in which block they are; this one changes nothing."""

    stateful = False
    """Whether anything is kept from one step for the next."""
    takes_routers = True
    """Whether the network may be a DyDiT."""

    def check(self, config: DiTConfig) -> None:
        """Raise InputError where the method does not fit a network of this configuration."""

    def begin(self) -> None:
        """Forget what was kept: a run begins."""

    def enter(self, position: int, block: int) -> None:
        """The parts that follow are those of a block at a step, both counted from 0."""

    def attend(self, hidden: Tensor, weights: AttentionWeights, modulation: Modulation) -> None:
        with span("norm"):
            normed = self.modulated(hidden, modulation)
        self.add_gated(hidden, self.attention(normed, weights), modulation.gate)

    def attention(self, x: Tensor, weights: AttentionWeights) -> Tensor:
        """Attention of the open heads over tokens (N, T, C), same shape, in scratch memory."""
        out = self.heads(x, weights)
        with span("proj"):
            return self.product("narrow", out, weights.proj, weights.proj_bias)

    def branch_macs(self, config: DiTConfig, steps: int) -> float:
        """MACs of the attention and MLP of one block, of one image, mean over the steps of a run."""
        return attention_macs(config) + mlp_macs(config)


class Walk:
    """Which blocks run at a step: all of them, unless a method says otherwise.

    `stateful` where what runs at a step depends on the steps before it.
    """

    stateful = False

    def check(self, config: DiTConfig) -> None:
        """Raise InputError where the walk does not fit a network of this configuration."""

    def begin(self) -> None:
        """Forget what was kept: a run begins."""

    def __call__(self, position: int, depth: int, hidden: Tensor, run_block: RunBlock) -> None:
        """Update the tokens (N, T, C) in place at a step of the run, counted from 0."""
        for index in range(depth):
            run_block(index)

    def blocks_run(self, config: DiTConfig, steps: int) -> float:
        """How many blocks run at a step, mean over the steps of a run."""
        return config.depth


class Method(nn.Module):
    """A network under a walk and a kind of blocks: (x, t, y) -> output, as `DiT.forward`, in evaluation mode only.

    Args:
        network: a DiT, or a DyDiT, whose masks are realised: what they close is skipped, too. It is not changed, and
            several methods may share it.
        walk: which blocks run at a step; all by default.
        blocks: what a block computes; the plain one by default.
        routing: masks that a DyDiT runs by instead of its routers' own, at every step, for batches of as many images
            as they are for; the routers of tokens run all the same.

    Raises:
        InputError: a method that does not fit the network, or two that keep what the other would change.
    """

    def __init__(
        self,
        network: DiT,
        walk: Walk | None = None,
        blocks: StepBlocks | None = None,
        routing: Routing | None = None,
    ) -> None:
        super().__init__()
        self.network, self.routing = network.eval(), routing
        self.walk, self.blocks = walk or Walk(), blocks or StepBlocks()
        self._check()
        config = network.config
        self.in_channels, self.input_size, self.num_classes = config.in_channels, config.input_size, config.num_classes
        self.out_channels = config.out_channels
        self._timesteps: tuple[int, ...] = ()
        self._next: int | None = None
        self._engine: _WalkingEngine | None = None

    @property
    def stateful(self) -> bool:
        """Whether `begin_run` must be called before every run."""
        return self.walk.stateful or self.blocks.stateful

    def begin_run(self, timesteps: Sequence[int]) -> None:
        """A run begins that visits these original timesteps in this order; what was kept of another is forgotten."""
        self._timesteps, self._next = tuple(timesteps), 0
        self.walk.begin()
        self.blocks.begin()
        self._own_engine()  # here, so that the plan of a DyDiT's widths is no part of a step

    def forward(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """As `DiT.forward`; all images are at one timestep, the next one of the run.

        Raises:
            InputError: of a method with state, no run was begun, or the call is not its next step.
        """
        position = self._advance(t) if self.stateful else 0
        engine = self._own_engine()
        engine.position = position
        return engine(x, t, y)

    def claimed_macs(self) -> float | None:
        """MACs of one image and branch by the method's formula, mean over the steps of the last run begun.

        None for a DyDiT, whose work depends on its masks, unless these are given and nothing else is left out. Matrix
        products and convolutions are counted.

        Raises:
            InputError: a method with state of which no run was begun.
        """
        if isinstance(self.network, DyDiT):
            alone = type(self.walk) is Walk and type(self.blocks) is StepBlocks
            return macs(self.network.config, self.routing).total() if alone and self.routing is not None else None
        if self.stateful and not self._timesteps:
            raise InputError("claimed MACs: they depend on the steps; call begin_run(timesteps) first")
        config, steps = self.network.config, max(len(self._timesteps), 1)
        modulation = 6 * config.hidden_size**2
        whole_block = modulation + attention_macs(config) + mlp_macs(config)
        blocks = self.walk.blocks_run(config, steps)
        left = blocks * (modulation + self.blocks.branch_macs(config, steps))
        return macs(config).total() - config.depth * whole_block + left

    def _check(self) -> None:
        config = self.network.config
        if self.routing is not None and not isinstance(self.network, DyDiT):
            raise InputError(f"a {type(self.network).__name__} takes no masks; give a DyDiT, or leave the routing out")
        if isinstance(self.network, DyDiT):
            if not self.network.realised:
                raise InputError(
                    f"a {type(self.network).__name__} skips in its own way, which no other method is put on; "
                    "give a DiT or a DyDiT"
                )
            if not self.blocks.takes_routers:
                raise InputError(
                    f"{type(self.blocks).__name__}: tokens are merged before the routers of a "
                    f"{type(self.network).__name__} could choose among them; give a static DiT"
                )
        if self.walk.stateful and self.blocks.stateful:
            raise InputError("two methods that both keep a step's results for the next; choose one of them")
        self.walk.check(config)
        self.blocks.check(config)

    def _advance(self, t: Tensor | int) -> int:
        if self._next is None:
            raise InputError("a method with state over steps: call begin_run(timesteps) before the first step of a run")
        if self._next == len(self._timesteps):
            raise InputError(f"the run of {self._next} steps has ended; call begin_run(timesteps) before another one")
        position = self._next
        called = set(t.tolist()) if isinstance(t, Tensor) else {t}
        if called != {self._timesteps[position]}:
            raise InputError(
                f"step {position} of the run is timestep {self._timesteps[position]}, the call is at {min(called)}; "
                "call begin_run(timesteps) with those of the sampler before every run"
            )
        self._next = position + 1
        return position

    def _own_engine(self) -> _WalkingEngine:
        table = self.network.pos_embed
        engine = self._engine
        if engine is None or (engine.device, engine.dtype) != (table.device, table.dtype):
            plan, tokens, timesteps = None, None, range(TIMESTEPS)
            if self.routing is not None:
                plan = WidthPlan.constant(self.routing, timesteps)
                tokens = self.routing.tokens.bool().to(table.device)
            elif isinstance(self.network, DyDiT):
                plan = WidthPlan.from_routers(self.network, timesteps)
            self._engine = engine = _WalkingEngine(self.network, plan, tokens, self.walk, self.blocks)
        return engine


class _WalkingEngine(Engine):
    """An engine whose blocks run by a walk."""

    def __init__(
        self, model: DiT, plan: WidthPlan | None, tokens: Tensor | None, walk: Walk, blocks: StepBlocks
    ) -> None:
        super().__init__(model, plan, tokens, backend=blocks)
        self.device, self.dtype = model.pos_embed.device, model.pos_embed.dtype
        self.walk, self.blocks, self.position = walk, blocks, 0

    @torch.inference_mode()
    def run_blocks(self, hidden: Tensor, run_block: RunBlock) -> None:
        def enter(index: int) -> None:
            self.blocks.enter(self.position, index)
            run_block(index)

        self.walk(self.position, self.model.config.depth, hidden, enter)
