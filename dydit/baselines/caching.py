"""Caching over steps: what a network computed at one step serves the next ones.

- `ReusedBlocks`, after DeepCache (Ma et al. 2024, arXiv 2312.00858): the first blocks run at every step; what the
  deeper ones add to the tokens is computed at every N-th step and reused between. DeepCache does so along the skip
  connection of a U-Net; a DiT has none, and the update of a span of blocks takes its place.
- `BranchCache` of order 0, FORA (Selvaraju et al. 2024, arXiv 2407.01425): the outputs of attention and MLP of every
  block, before their gates, are computed at every N-th step and reused between; modulations and gates follow the step.
- `BranchCache` of a higher order, TaylorSeer (Liu et al. 2025, arXiv 2503.06923): the outputs between are forecast by a
  Taylor polynomial, whose derivatives are finite differences of the computed ones.

All begin with a computed step, and at interval 1 compute every step. On a DyDiT they reuse what its masks left.

Shape letters: N images, T tokens, C hidden size.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from dydit.baselines.method import RunBlock, StepBlocks, Walk
from dydit.config import DiTConfig
from dydit.errors import InputError
from dydit.inference.torch_blocks import Modulation
from dydit.inference.weight_slices import AttentionWeights, MlpWeights


class ReusedBlocks(Walk):
    """The first `shallow` blocks at every step, the update of the others from every `interval`-th."""

    stateful = True

    def __init__(self, interval: int, shallow: int = 1) -> None:
        self.interval, self.shallow = check_interval(interval), shallow
        self._update: Tensor | None = None

    def check(self, config: DiTConfig) -> None:
        if not 0 <= self.shallow < config.depth:
            raise InputError(
                f"deepcache: {self.shallow} blocks at every step, the network has {config.depth}; choose 0 to "
                f"{config.depth - 1}"
            )

    def begin(self) -> None:
        self._update = None

    def __call__(self, position: int, depth: int, hidden: Tensor, run_block: RunBlock) -> None:
        for index in range(self.shallow):
            run_block(index)
        if position % self.interval:
            assert self._update is not None, "the first step of a run computes all blocks"
            hidden.add_(self._update)
            return
        before = hidden.clone() if self.interval > 1 else None
        for index in range(self.shallow, depth):
            run_block(index)
        if before is not None:
            self._update = hidden - before

    def blocks_run(self, config: DiTConfig, steps: int) -> float:
        return self.shallow + (config.depth - self.shallow) * computed_steps(steps, self.interval) / steps


class BranchCache(StepBlocks):
    """Attention and MLP outputs computed at every `interval`-th step, and between forecast to an order; 0 reuses."""

    stateful = True

    def __init__(self, interval: int, order: int = 0) -> None:
        super().__init__()
        if order < 0:
            raise InputError(f"taylorseer order {order}: give a whole number from 0, which reuses")
        self.interval, self.order = check_interval(interval), order
        self._position, self._block = 0, 0
        self._selected: Tensor | None = None
        self._kept: dict[tuple[int, str], tuple[int, list[Tensor]]] = {}

    def begin(self) -> None:
        self._kept.clear()

    def enter(self, position: int, block: int) -> None:
        self._position, self._block = position, block

    @property
    def computes(self) -> bool:
        """Whether this step computes the branches."""
        return self._position % self.interval == 0

    def attend(self, hidden: Tensor, weights: AttentionWeights, modulation: Modulation) -> None:
        if self.computes:
            super().attend(hidden, weights, modulation)
        else:
            self.add_gated(hidden, self._forecast("attention"), modulation.gate)

    def attention(self, x: Tensor, weights: AttentionWeights) -> Tensor:
        return self._keep("attention", super().attention(x, weights))

    def update_all(self, hidden: Tensor, weights: MlpWeights, modulation: Modulation) -> None:
        if self.computes:
            super().update_all(hidden, weights, modulation)
        else:
            self.add_gated(hidden, self._forecast("mlp"), modulation.gate)

    def select_tokens(self, hidden: Tensor, router: nn.Module, override: Tensor | None) -> Any:
        """As `TorchBlocks.select_tokens`; where nothing is computed, no router runs."""
        return super().select_tokens(hidden, router, override) if self.computes else None

    def update_selected(self, hidden: Tensor, selected: Any, weights: MlpWeights, modulation: Modulation) -> None:
        if not self.computes:
            self.add_gated(hidden, self._forecast("mlp"), modulation.gate)
            return
        self._selected = selected
        if not selected.any():
            self._keep("mlp", hidden.new_zeros(hidden.shape))
        super().update_selected(hidden, selected, weights, modulation)
        self._selected = None

    def mlp(self, x: Tensor, weights: MlpWeights) -> Tensor:
        out = super().mlp(x, weights)
        if out.dim() == 3:
            return self._keep("mlp", out)
        assert self._selected is not None, "rows of some tokens come from update_selected alone"
        whole = out.new_zeros(*self._selected.shape, out.shape[-1])
        whole[self._selected] = out  # a closed token's update is 0
        self._keep("mlp", whole)
        return out

    def branch_macs(self, config: DiTConfig, steps: int) -> float:
        return super().branch_macs(config, steps) * computed_steps(steps, self.interval) / steps

    def _keep(self, branch: str, output: Tensor) -> Tensor:
        """Keep an output with its finite differences, each per step; the output itself comes back."""
        if self.interval == 1:
            return output
        key = (self._block, branch)
        differences = [output.clone()]  # the output lies in scratch memory
        if key in self._kept:
            last, before = self._kept[key]
            for order in range(min(self.order, len(before))):
                differences.append((differences[order] - before[order]) / (self._position - last))
        self._kept[key] = (self._position, differences)
        return output

    def _forecast(self, branch: str) -> Tensor:
        last, differences = self._kept[self._block, branch]
        ahead, forecast = self._position - last, differences[0]
        for order, difference in enumerate(differences[1:], 1):
            forecast = forecast + difference * (ahead**order / math.factorial(order))
        return forecast


def check_interval(interval: int) -> int:
    """Return an interval unchanged.

    Raises:
        InputError: it is below 1.
    """
    if interval < 1:
        raise InputError(f"interval {interval}: give a whole number from 1, which computes every step")
    return interval


def computed_steps(steps: int, interval: int) -> int:
    """How many of the steps of a run compute all: the first, and every `interval`-th after it."""
    return math.ceil(steps / interval)
