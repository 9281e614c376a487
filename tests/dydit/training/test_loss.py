"""The terms of a step's loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dydit import DiT
from dydit.diffusion import Diffusion
from dydit.flops import flops_loss, flops_ratio
from dydit.training.loss import step_loss
from dydit.training.recipe import Recipe


def noised(diffusion: Diffusion) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0, y = torch.rand(4, 4, 8, 8, generator=generator) * 2 - 1, torch.randint(10, (4,), generator=generator)
    t = torch.tensor([0, 300, 600, 999])
    noise = torch.randn(x0.shape, generator=generator)
    return x0, y, t, noise, diffusion.add_noise(x0, t, noise)


@pytest.mark.parametrize(("step", "complete"), [(0, True), (9, True), (10, False), (500, False)])
def test_the_complete_model_counts_during_warm_up_alone(build, step: int, complete: bool) -> None:
    recipe = Recipe(20, 4, 0, target=0.5, complete_warmup=10, target_hold=5, target_reached=25, flops_weight=3.0)
    model, diffusion = build().train(), Diffusion.linear()
    x0, y, t, noise, x_t = noised(diffusion)
    torch.manual_seed(5)
    loss, ratio, rates = step_loss(model, diffusion, x0, y, t, noise, recipe, step)
    torch.manual_seed(5)
    output, routing = model.route(x_t, t, y)
    expected = diffusion.losses(output, x0, x_t, t, noise).loss.mean()
    expected = expected + flops_loss(routing, model.config, recipe.target_at(step), 3.0)
    if complete:
        expected = expected + diffusion.losses(model.complete(x_t, t, y), x0, x_t, t, noise).loss.mean()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert ratio == flops_ratio(routing, model.config).mean()
    assert 0 < ratio < 1
    torch.testing.assert_close(rates[:, 0], routing.head_rate.mean(0))
    torch.testing.assert_close(rates[:, 1], routing.channel_rate.mean(0))
    torch.testing.assert_close(rates[:, 2], routing.token_rate.mean(0))


def test_a_static_model_has_the_diffusion_loss_alone(build) -> None:
    model, diffusion = build(DiT), Diffusion.linear()
    x0, y, t, noise, x_t = noised(diffusion)
    loss, ratio, _ = step_loss(model, diffusion, x0, y, t, noise, Recipe(3, 4, 0), 0)
    assert torch.equal(loss, diffusion.losses(model(x_t, t, y), x0, x_t, t, noise).loss.mean())
    assert ratio == 1.0
