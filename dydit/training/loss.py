"""The loss of one step (paper, Section 3.4): denoising loss, that of the complete model, and the FLOPs loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.flops import flops_loss, flops_ratio
from dydit.training.recipe import Recipe


class Measured(NamedTuple):
    """Loss of a batch (a scalar with gradient), its mean FLOPs ratio (a scalar) and its rates (L, 3) by block."""

    loss: Tensor
    ratio: Tensor
    rates: Tensor


def step_loss(
    model: DiT, diffusion: Diffusion, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor, recipe: Recipe, step: int
) -> Measured:
    """Loss of one step, the achieved FLOPs ratio, and the rates of heads, channel groups and tokens.

    Warm-up: L_DiT(dynamic) + L_DiT(complete) + FLOPs loss; afterwards the complete term is dropped.
    """
    x_t = diffusion.add_noise(x0, t, noise)

    def image_loss(output: Tensor) -> Tensor:
        return diffusion.losses(output.to(x_t.dtype), x0, x_t, t, noise).loss.mean()

    if not isinstance(model, DyDiT):
        return Measured(image_loss(model(x_t, t, y)), x_t.new_ones(()), x_t.new_ones(0, 3))
    output, routing = model.route(x_t, t, y)
    loss = image_loss(output)
    if step < recipe.complete_warmup:
        loss = loss + image_loss(model.complete(x_t, t, y))
    loss = loss + flops_loss(routing, model.config, recipe.target_at(step), recipe.flops_weight)
    with torch.no_grad():
        ratio = flops_ratio(routing, model.config).mean()
        rates = torch.stack([routing.head_rate, routing.channel_rate, routing.token_rate], -1).mean(0)
    return Measured(loss, ratio, rates)
