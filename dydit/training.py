"""Training a static DiT, and fine-tuning DyDiT by the paper's recipe (Section 3.4, Appendix A; Tables 6 and 7).

The recipe's stages: complete-model warm-up (the unmasked loss is added), a falling FLOPs target, timesteps stratified
over four quarters, an upper limit on the gradient norm, and an exponential moving average of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dydit.config import check_lambda
from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError
from dydit.flops import LOSS_WEIGHT, flops_loss, flops_ratio

STRATA = 4


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; steps are optimiser steps.

    `target` is lambda, None for a static model. Until `complete_warmup` the loss of the complete model is added.
    The FLOPs target stays 1 for `target_hold` steps and has fallen linearly to lambda at `target_reached`.
    A step whose gradient norm exceeds `gradient_limit` is skipped. With `flip` every image is mirrored left to right in
    half of its appearances.

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

    def __post_init__(self) -> None:
        if self.target is not None:
            check_lambda(self.target)
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"recipe: {name} = {getattr(self, name)}; it must be at least 1")
        if self.target_hold >= self.target_reached:
            raise InputError(
                f"recipe: target_hold {self.target_hold} must lie before target_reached {self.target_reached}"
            )

    def target_at(self, step: int) -> float:
        """FLOPs target at an optimiser step, counted from 0."""
        if self.target is None:
            return 1.0
        progress = (step - self.target_hold) / (self.target_reached - self.target_hold)
        return 1.0 - (1.0 - self.target) * min(max(progress, 0.0), 1.0)


@dataclass(frozen=True)
class StepLog:
    """One step's losses (means over the batch), achieved FLOPs ratio (1 for a static model) and gradient norm."""

    step: int
    loss: float
    ratio: float
    gradient_norm: float


def stratified_timesteps(batch: int, total: int, generator: torch.Generator) -> Tensor:
    """Timesteps (batch,) drawn in equal shares from the four quarters of [0, total)."""
    quarter = torch.arange(batch) % STRATA
    within = torch.rand(batch, generator=generator)
    return ((quarter + within) * (total / STRATA)).long().clamp(max=total - 1)


def mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, S, S), each mirrored left to right with probability 1/2 by a generator on the CPU."""
    chosen = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(chosen.to(x.device)[:, None, None, None], x.flip(-1), x)


def train(
    model: DiT,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    track: Callable[[Iterable[int]], Iterable[int]] = lambda steps: steps,
    on_step: Callable[[StepLog], None] | None = None,
) -> DiT:
    """Train `model` in place and return its moving average, in evaluation mode.

    On the CPU the result depends on the initial weights, the data and the recipe alone.

    Args:
        model: a DiT, or a DyDiT when the recipe has a target.
        images: (M, C, S, S) in [-1, 1] (or latents), on the model's device.
        labels: (M,).
        recipe: the schedule.
        track: progress wrapper over the steps.
        on_step: called after every step.

    Raises:
        InputError: recipe and model do not belong together, or the loss is no longer finite.
    """
    if (recipe.target is not None) != isinstance(model, DyDiT):
        raise InputError(f"recipe: target {recipe.target} does not fit a {type(model).__name__}; DyDiT needs a target")
    diffusion = Diffusion.linear()
    draws = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    decay = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=decay)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)  # label dropout and gate noise
        for step in track(range(recipe.steps)):
            chosen = torch.randint(len(images), (recipe.batch_size,), generator=draws)
            x0, y = images[chosen], labels[chosen]
            if recipe.flip:
                x0 = mirrored(x0, draws)
            t = stratified_timesteps(recipe.batch_size, len(diffusion), draws).to(x0.device)
            noise = torch.randn(x0.shape, generator=draws).to(x0)
            loss, ratio = step_loss(model, diffusion, x0, y, t, noise, recipe, step)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            if not torch.isfinite(norm):
                raise InputError(
                    f"training diverged at step {step}: gradient norm {norm.item()}; lower the learning rate"
                )
            if norm <= recipe.gradient_limit:
                optimizer.step()
                average.update_parameters(model)
            if on_step is not None:
                on_step(StepLog(step, loss.item(), ratio, norm.item()))
    averaged = average.module
    assert isinstance(averaged, DiT)
    return averaged.eval()


def step_loss(
    model: DiT, diffusion: Diffusion, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor, recipe: Recipe, step: int
) -> tuple[Tensor, float]:
    """Loss of one step (a scalar) and the achieved FLOPs ratio.

    Warm-up: L_DiT(dynamic) + L_DiT(complete) + FLOPs loss; afterwards the complete term is dropped.
    """
    x_t = diffusion.add_noise(x0, t, noise)
    if not isinstance(model, DyDiT):
        return diffusion.losses(model(x_t, t, y), x0, x_t, t, noise).loss.mean(), 1.0
    output, routing = model.route(x_t, t, y)
    loss = diffusion.losses(output, x0, x_t, t, noise).loss.mean()
    if step < recipe.complete_warmup:
        loss = loss + diffusion.losses(model.complete(x_t, t, y), x0, x_t, t, noise).loss.mean()
    loss = loss + flops_loss(routing, model.config, recipe.target_at(step), recipe.flops_weight)
    return loss, flops_ratio(routing, model.config).mean().item()
