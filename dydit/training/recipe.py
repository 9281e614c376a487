"""The recipe of a training (paper, Tables 6 and 7), checked on construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dydit.config import check_lambda
from dydit.errors import InputError
from dydit.flops import LOSS_WEIGHT


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        steps: optimiser steps.
        batch_size: images per step, over all processes.
        seed: of rows, mirroring, timesteps, noise, label dropout and gates.
        learning_rate: of AdamW, without weight decay.
        router_learning_rate: factor on the learning rate of the routers; 1 in the paper and the released scripts. Adam
            moves a weight by at most about its learning rate per step, so a router can travel about steps x
            learning_rate x router_learning_rate: 200k x 1e-4 = 20 in the paper. The initial biases, 15 for widths and
            35 for tokens (`dydit.routing`), are made for that distance. In a short run the routers of tokens never get
            near their threshold: 1,000 steps at 5e-4 are a distance of 0.5. A small study therefore chooses the factor
            so that the distance is near 20, and says so.
        ema_decay: d of the moving average a of the weights w, which begins at the initial weights: a = d a + (1 - d) w
            after every step, whether skipped or not, as in the released scripts. The paper does not say what happens
            after a skipped step.
        target: lambda, the FLOPs ratio aimed at, in (0, 1]; None for a static network.
        complete_warmup: the first so many steps add the loss of the complete model.
        target_hold: the FLOPs target is 1 for so many steps; see `target_at`.
        target_reached: the FLOPs target is lambda from this step on.
        flops_weight: weight of the FLOPs loss.
        gradient_limit: a step whose gradient has a larger norm (L2, all parameters) is skipped.
        double_steps: in the first so many steps the optimiser updates the weights twice by the same gradient: once
            before the norm is compared with the limit, and again if the norm is not above it. So such a step counts
            twice, or once where another would be skipped.
        flip: mirror every image left to right in half of its appearances.
        micro_batch: images computed at once (None: the whole batch); the losses of all micro-batches are averaged. It
            belongs to the recipe because the FLOPs loss is (mean ratio of n images - target)^2 with n of this size: its
            expectation holds the variance of the ratio over n, so that small micro-batches penalise widths and tokens
            that differ between timesteps and images. How micro-batches are distributed over processes changes nothing.

    Raises:
        InputError: a value out of range.
    """

    steps: int
    batch_size: int
    seed: int
    learning_rate: float = 1e-4
    router_learning_rate: float = 1.0
    ema_decay: float = 0.9999
    target: float | None = None
    complete_warmup: int = 0
    target_hold: int = 100
    target_reached: int = 1000
    flops_weight: float = LOSS_WEIGHT
    gradient_limit: float = float("inf")
    flip: bool = False
    double_steps: int = 0
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.target is not None:
            check_lambda(self.target)
        for name in ("steps", "batch_size", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"recipe: {name} = {value}; it must be at least 1")
        for name in ("learning_rate", "router_learning_rate", "flops_weight"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"recipe: {name} = {value}; it must be a finite number that is not negative")
        for name in ("complete_warmup", "target_hold", "double_steps", "gradient_limit"):
            if not getattr(self, name) >= 0:  # NaN neither
                raise InputError(f"recipe: {name} = {getattr(self, name)}; it must not be negative")
        if not 0 <= self.ema_decay <= 1:
            raise InputError(f"recipe: ema_decay = {self.ema_decay}; it must lie in [0, 1]")
        if self.batch_size % self.micro_batch_size:
            raise InputError(
                f"recipe: batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}; "
                "choose a divisor"
            )
        if self.target_hold >= self.target_reached:
            raise InputError(
                f"recipe: target_hold {self.target_hold} must lie before target_reached {self.target_reached}"
            )

    @classmethod
    def completed(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe's record with the defaults of fields that did not exist when it was written."""
        fields = dataclasses.fields(cls)
        defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
        return {**defaults, **record}

    @property
    def micro_batch_size(self) -> int:
        """Images in a micro-batch."""
        return self.micro_batch or self.batch_size

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches in a batch."""
        return self.batch_size // self.micro_batch_size

    def target_at(self, step: int) -> float:
        """FLOPs target at an optimiser step, counted from 0; 1 for a static network.

        It is 1 before `target_hold`, then 1 - (1 - lambda) * step / target_reached, and lambda from `target_reached`
        on. The ramp is measured from step 0, so the target jumps at `target_hold`: with lambda 0.5, a hold of 100 and
        a ramp of 1,000 steps from 1 to 0.95. The released scripts do this; the paper gives no schedule.
        """
        if self.target is None or step < self.target_hold:
            return 1.0
        return 1.0 - (1.0 - self.target) * min(step / self.target_reached, 1.0)
