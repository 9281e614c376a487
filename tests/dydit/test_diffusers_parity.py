"""The same function as diffusers' own DiT and schedulers, an implementation made without ours."""

from __future__ import annotations

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from bench.latency.alternatives import to_diffusers
from dydit import DiT
from dydit.diffusion import Diffusion, kept_timesteps
from dydit.sampling import denoise


@pytest.mark.parametrize(
    "config",
    [{}, {"patch_size": 4, "depth": 3}, {"in_channels": 1, "hidden_size": 32}, {"learn_sigma": False, "num_heads": 2}],
)
@torch.no_grad()
def test_static_model_computes_the_function_of_diffusers(build, draw, config: dict[str, int]) -> None:
    model = build(DiT, seed=1, **config)
    x, t, y = draw(model, 4)
    t[:2], y[3] = torch.tensor([0, 999]), model.config.num_classes
    expected = to_diffusers(model)(x, timestep=t, class_labels=y).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(model(x, t, y), expected, rtol=1e-4, atol=1e-4)


def test_the_schedule_is_that_of_diffusers() -> None:
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02)
    ours = Diffusion.linear()
    torch.testing.assert_close(ours.betas.float(), scheduler.betas, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=0)


@pytest.mark.parametrize("t", [0, 10, 500, 998, 999])
def test_an_ancestral_step_with_learned_variance_is_that_of_diffusers(t: int) -> None:
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, variance_type="learned_range", clip_sample=False)
    torch.manual_seed(t)
    x, output = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 8, 8)
    expected = scheduler.step(output, t, x, generator=torch.Generator().manual_seed(1)).prev_sample
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    step = Diffusion.linear().ddpm_step(output, x, torch.full((2,), t), noise)
    torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-3)  # diffusers keeps its products in float32


@pytest.mark.parametrize(("name", "steps"), [("ddpm", 10), ("ddpm", 25), ("ddim", 10), ("ddim", 20)])
def test_a_respaced_run_is_that_of_diffusers(name: str, steps: int) -> None:
    torch.manual_seed(0)
    start, noises, weight = torch.randn(2, 4, 8, 8), torch.randn(steps, 2, 4, 8, 8), torch.randn(8, 4) * 0.3

    def model(x: Tensor, t: int, _: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("oc,nchw->nohw", weight, x) + t / 1000)

    shared = {"beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}
    kept = kept_timesteps(steps, name)
    if name == "ddpm":
        scheduler = DDPMScheduler(variance_type="learned_range", **shared)
        scheduler.set_timesteps(timesteps=kept[::-1])
    else:
        scheduler = DDIMScheduler(timestep_spacing="leading", **shared)
        scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == kept[::-1]
    expected = start
    drawn = torch.Generator()
    for taken, t in enumerate(scheduler.timesteps):
        output = model(expected, int(t), t)
        if name == "ddpm":
            expected = scheduler.step(output, int(t), expected, generator=drawn.manual_seed(taken)).prev_sample
            noises[taken] = torch.randn(start.shape, generator=drawn.manual_seed(taken))
        else:
            expected = scheduler.step(output[:, :4], int(t), expected).prev_sample
    ours = denoise(
        model,
        Diffusion.linear().respaced(steps, name),
        start,
        torch.zeros(2, dtype=torch.int64),
        noise=lambda taken: noises[taken],
        sampler=name,
    )
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
