"""The recipe of a training (paper, Tables 6 and 7) and the log of one step, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass

from dydit.config import check_lambda
from dydit.errors import InputError
from dydit.flops import LOSS_WEIGHT

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; steps are optimiser steps.

    `target` is lambda, None for a static model. Until `complete_warmup` the loss of the complete model is added.
    The FLOPs target stays 1 for `target_hold` steps and has fallen linearly to lambda at `target_reached`.
    A step whose gradient norm exceeds `gradient_limit` is skipped. With `flip` every image is mirrored left to right in
    half of its appearances.

    A batch is computed in parts of `micro_batch` (None: whole), whose losses are averaged. The FLOPs loss compares the
    mean ratio of a part with the target, so that the size of the parts, other than their distribution over processes,
    belongs to the recipe.

    Raises:
        InputError: a value out of range.
    """

    steps: int
    batch_size: int
    seed: int
    learning_rate: float = 1e-4
    ema_decay: float = 0.9999
    target: float | None = None
    complete_warmup: int = 0
    target_hold: int = 100
    target_reached: int = 1000
    flops_weight: float = LOSS_WEIGHT
    gradient_limit: float = float("inf")
    flip: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.target is not None:
            check_lambda(self.target)
        for name in ("steps", "batch_size", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"recipe: {name} = {value}; it must be at least 1")
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise InputError(
                f"recipe: batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}; "
                "choose a divisor"
            )
        if self.target_hold >= self.target_reached:
            raise InputError(
                f"recipe: target_hold {self.target_hold} must lie before target_reached {self.target_reached}"
            )

    @property
    def micro_batches(self) -> int:
        """Parts of a batch."""
        return self.batch_size // (self.micro_batch or self.batch_size)

    def target_at(self, step: int) -> float:
        """FLOPs target at an optimiser step, counted from 0."""
        if self.target is None:
            return 1.0
        progress = (step - self.target_hold) / (self.target_reached - self.target_hold)
        return 1.0 - (1.0 - self.target) * min(max(progress, 0.0), 1.0)


Rates = tuple[float, float, float]


@dataclass(frozen=True)
class StepLog:
    """One step: loss and achieved FLOPs ratio (means over the batch; the ratio is 1 for a static model).

    `gradient_norm` is that of all parameters, and a `skipped` step changed none of them. `target` is the FLOPs ratio
    asked for. `rates` are the open shares of heads, channel groups and tokens of every block (none in a static model).
    """

    step: int
    loss: float
    ratio: float
    gradient_norm: float
    target: float = 1.0
    skipped: bool = False
    rates: tuple[Rates, ...] = ()
