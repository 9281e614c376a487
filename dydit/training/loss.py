"""The loss of a training step: noise prediction by the dynamic model, by the complete model, and the FLOPs loss.

Source: paper, Section 3.4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dydit.diffusion import Diffusion
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError
from dydit.flops import flops_loss, flops_ratio
from dydit.training.recipe import Recipe


class StepLoss(NamedTuple):
    """The loss of a micro-batch, a scalar with gradient, and what it says about the network.

    ratio is the mean FLOPs ratio, a scalar; rates (L, 3) are the open shares of heads, channel groups and tokens in
    each of the L blocks. A static network has ratio 1 and rates (0, 3).
    """

    loss: Tensor
    ratio: Tensor
    rates: Tensor


def step_loss(
    model: DiT, diffusion: Diffusion, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor, recipe: Recipe, step: int
) -> StepLoss:
    """Loss of a micro-batch at an optimiser step, counted from 0.

    It is L_DiT(dynamic) + L_FLOPs, and during the warm-up also + L_DiT(complete); of a static network L_DiT alone.

    Args:
        model: in training mode.
        diffusion: the noise schedule.
        x0: images or latents (N, C, S, S).
        y: labels (N,).
        t: timesteps (N,).
        noise: standard normal, shaped as `x0`.
        recipe: gives the warm-up, the FLOPs target and the weight of the FLOPs loss.
        step: decides what these are.

    Raises:
        InputError: no DiT, such as what torch.compile made of one, or inputs that the network or the schedule refuses.
    """
    if not isinstance(model, DiT):  # a DyDiT would be trained as a static network
        raise InputError(f"loss: {type(model).__name__} is no DiT or DyDiT; give the network inside of it")
    x_t = diffusion.add_noise(x0, t, noise)

    def denoising_loss(output: Tensor) -> Tensor:
        return diffusion.losses(output.to(x_t.dtype), x0, x_t, t, noise).loss.mean()

    if not isinstance(model, DyDiT):
        return StepLoss(denoising_loss(model(x_t, t, y)), x_t.new_ones(()), x_t.new_ones(0, 3))
    output, routing = model.route(x_t, t, y)
    loss = denoising_loss(output)
    if step < recipe.complete_warmup:
        loss = loss + denoising_loss(model.complete(x_t, t, y))
    loss = loss + flops_loss(routing, model.config, recipe.target_at(step), recipe.flops_weight)
    with torch.no_grad():
        ratio = flops_ratio(routing, model.config).mean()
        rates = torch.stack([routing.head_rate, routing.channel_rate, routing.token_rate], -1).mean(0)
    return StepLoss(loss, ratio, rates)
