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
from dydit.sampling import mix
from dydit.training.data import Data
from dydit.training.draws import Draws, seed_generators
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


def micro_batch_loss(
    model: DiT, diffusion: Diffusion, data: Data, draws: Draws, recipe: Recipe, step: int, index: int, half: bool
) -> StepLoss:
    """Loss of the `index`-th micro-batch of a step; every call draws the same numbers.

    Args:
        model: in training mode, on its device.
        diffusion: the noise schedule.
        data: of which the micro-batch reads its rows.
        draws: of the step.
        recipe: as in `step_loss`.
        step: as in `step_loss`.
        index: of the micro-batch, from 0.
        half: whether matrix products are computed in bfloat16.

    Raises:
        InputError: as `step_loss`.
    """
    device = next(model.parameters()).device
    rows, mirror, t, noise = draws.micro_batch(index, recipe.micro_batch_size)
    with seed_generators(mix(mix(recipe.seed, step), index + 1), device):
        x0, y = (tensor.to(device, non_blocking=True) for tensor in data.batch(rows, mirror))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return step_loss(model, diffusion, x0, y, t.to(device), noise.to(x0), recipe, step)
