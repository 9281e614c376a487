from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dydit.diffusion import Diffusion, kept_timesteps
from dydit.sampling import denoise

FULL = Diffusion.linear()
STRIDES = {len(range(0, 1000, stride)): stride for stride in range(1000, 0, -1)}
quick = settings(max_examples=40, deadline=None)


def images(seed: int = 0, n: int = 4, channels: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x_0, noise and a network output."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand(n, channels, 4, 4, generator=generator) * 2 - 1
    noise = torch.randn(n, channels, 4, 4, generator=generator)
    return x0, noise, torch.randn(n, 2 * channels, 4, 4, generator=generator)


@given(steps=st.integers(2, 1000))
@quick
def test_ddpm_keeps_the_ends_and_rounded_multiples_between(steps: int) -> None:
    kept = kept_timesteps(steps, "ddpm")
    assert (len(kept), kept[0], kept[-1]) == (steps, 0, 999)
    assert all(a < b for a, b in itertools.pairwise(kept))
    np.testing.assert_allclose(kept, np.arange(steps) * 999 / (steps - 1), rtol=0, atol=0.5 + 1e-6)


def test_one_ddpm_step_keeps_timestep_zero() -> None:
    assert kept_timesteps(1, "ddpm") == [0]


@given(steps=st.sampled_from(sorted(STRIDES)))
@quick
def test_ddim_keeps_the_multiples_of_its_first_fitting_stride(steps: int) -> None:
    assert kept_timesteps(steps, "ddim") == list(range(0, 1000, STRIDES[steps]))


@given(steps=st.integers(1, 1000).filter(lambda steps: steps not in STRIDES))
@quick
def test_a_ddim_count_no_stride_gives_is_refused(refusal, steps: int) -> None:
    with refusal(f"{steps} DDIM steps"):
        kept_timesteps(steps, "ddim")


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_step_count_outside_the_schedule_is_refused(refusal, steps: int, sampler: str) -> None:
    with refusal(f"steps = {steps}", "1 to 1000"):
        FULL.respaced(steps, sampler)


@given(steps=st.integers(1, 1000))
@quick
def test_respacing_keeps_the_cumulative_products(steps: int) -> None:
    respaced, kept = FULL.respaced(steps), kept_timesteps(steps, "ddpm")
    assert len(respaced) == steps
    assert respaced.timestep_map.tolist() == kept
    assert ((respaced.betas > 0) & (respaced.betas < 1)).all()
    torch.testing.assert_close(respaced.alphas_cumprod, FULL.alphas_cumprod[kept], rtol=1e-10, atol=0)


def test_respacing_to_every_step_changes_nothing() -> None:
    torch.testing.assert_close(FULL.respaced(1000).betas, FULL.betas, rtol=1e-9, atol=0)


def test_respacing_twice_still_shows_original_timesteps() -> None:
    twice = FULL.respaced(100).respaced(10)
    kept = torch.tensor(kept_timesteps(100, "ddpm"))[kept_timesteps(10, "ddpm", 100)]
    assert torch.equal(twice.timestep_map, kept)
    torch.testing.assert_close(twice.alphas_cumprod, FULL.alphas_cumprod[kept], rtol=1e-10, atol=0)


def test_the_training_schedule_is_linear() -> None:
    np.testing.assert_allclose(FULL.betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-12)
    assert FULL.timestep_map.tolist() == list(range(1000))


def test_adding_noise_follows_the_closed_form() -> None:
    x0, noise, _ = images()
    t = torch.tensor([0, 1, 500, 999])
    product = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t.numpy()][:, None, None, None]
    expected = np.sqrt(product) * x0.numpy() + np.sqrt(1 - product) * noise.numpy()
    np.testing.assert_allclose(FULL.add_noise(x0, t, noise), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(FULL.predict_x0(noise, FULL.add_noise(x0, t, noise), t), x0, rtol=0, atol=1e-4)


@given(t=st.integers(0, 999), steps=st.sampled_from([1000, 250]))
@quick
def test_an_ancestral_step_follows_the_direct_formula(t: int, steps: int) -> None:
    diffusion = FULL.respaced(steps)
    t %= steps
    x, noise, output = images(t)
    betas = diffusion.betas.numpy()
    products = np.cumprod(1 - betas)
    previous = products[t - 1] if t else 1.0
    eps, v = np.split(output.double().numpy(), 2, axis=1)
    x0 = (x.numpy() - np.sqrt(1 - products[t]) * eps) / np.sqrt(products[t])
    mean = np.sqrt(previous) * betas[t] * x0 + np.sqrt(1 - betas[t]) * (1 - previous) * x.numpy()
    mean /= 1 - products[t]
    # At t = 0 no noise is added, so the clipped variance does not show.
    lower = betas[t] * (1 - previous) / (1 - products[t]) if t else 1.0
    log_variance = (v + 1) / 2 * np.log(betas[t]) + (1 - v) / 2 * np.log(lower)
    expected = mean + (t > 0) * np.exp(log_variance / 2) * noise.numpy()
    step = diffusion.ddpm_step(output, x, torch.full((4,), t), noise)
    np.testing.assert_allclose(step, expected, rtol=1e-3, atol=1e-3)


@given(t=st.integers(0, 999))
@quick
def test_a_ddim_step_from_the_true_noise_moves_along_the_true_path(t: int) -> None:
    x0, noise, output = images(t)
    output[:, :2] = noise
    at = torch.full((4,), t)
    step = FULL.ddim_step(output, FULL.add_noise(x0, at, noise), at)
    expected = FULL.add_noise(x0, at - 1, noise) if t else x0
    torch.testing.assert_close(step, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 20, 100])
def test_ddim_with_a_perfect_network_returns_the_image(steps: int) -> None:
    x0, noise, _ = images()

    def perfect(x: Tensor, t: int, _: Tensor) -> Tensor:
        product = FULL.alphas_cumprod[t].float()
        return torch.cat([(x - product.sqrt() * x0) / (1 - product).sqrt(), torch.zeros_like(x)], dim=1)

    diffusion = FULL.respaced(steps, "ddim")
    start = diffusion.add_noise(x0, torch.full((4,), steps - 1), noise)
    drawn = denoise(perfect, diffusion, start, torch.zeros(4), noise=lambda _: torch.empty(0), sampler="ddim")
    torch.testing.assert_close(drawn, x0, rtol=0, atol=1e-3)


@pytest.mark.parametrize("steps", [1000, 250])
def test_the_bound_is_the_divergence_of_the_two_steps_in_bits(steps: int) -> None:
    diffusion = FULL.respaced(steps)
    x0, noise, output = images()
    t = torch.tensor([1, 2, steps // 2, steps - 1])
    x_t = diffusion.add_noise(x0, t, noise)
    eps, v = output.double().chunk(2, dim=1)

    def at(table: Tensor) -> Tensor:
        return table[t][:, None, None, None]

    def posterior(start: Tensor) -> Tensor:
        return at(diffusion.posterior_x0_weight) * start + at(diffusion.posterior_xt_weight) * x_t

    share = (v + 1) / 2
    log_variance = share * at(diffusion.betas).log() + (1 - share) * at(diffusion.posterior_variance).log()
    guess = (x_t - at(1 - diffusion.alphas_cumprod).sqrt() * eps) / at(diffusion.alphas_cumprod).sqrt()
    truth = Normal(posterior(x0), at(diffusion.posterior_variance).sqrt())
    expected = kl_divergence(truth, Normal(posterior(guess), (log_variance / 2).exp())).mean((1, 2, 3)) / math.log(2)
    losses = diffusion.losses(output, x0, x_t, t, noise)
    torch.testing.assert_close(losses.vb.double(), expected * steps / 1000, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(losses.mse, (noise - output[:, :2]).square().mean((1, 2, 3)))
    assert torch.equal(losses.loss, losses.mse + losses.vb)


@given(seed=st.integers(0, 1000), t=st.integers(1, 999))
@quick
def test_the_bound_is_zero_for_the_truth_and_positive_otherwise(seed: int, t: int) -> None:
    x0, noise, output = images(seed)
    at = torch.full((4,), t)
    x_t = FULL.add_noise(x0, at, noise)
    perfect = torch.cat([noise, -torch.ones_like(noise)], dim=1)
    losses = FULL.losses(perfect, x0, x_t, at, noise)
    torch.testing.assert_close(losses.loss, torch.zeros(4), rtol=0, atol=1e-5)
    assert (FULL.losses(output, x0, x_t, at, noise).vb > 0).all()


def test_the_last_step_is_a_probability_over_the_256_pixel_values() -> None:
    pixels = (torch.arange(256) / 127.5 - 1)[:, None, None, None]
    x_t, t = torch.full_like(pixels, 0.3), torch.zeros(256, dtype=torch.int64)
    output = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1).expand(256, -1, -1, -1)
    vb = FULL.losses(output, pixels, x_t, t, torch.zeros_like(pixels)).vb.double()
    probability = torch.exp2(-vb)
    assert probability.sum().item() == pytest.approx(1, abs=1e-4)
    mean = FULL.predict_x0(output[:1, :1], x_t[:1], t[:1]).item()
    assert (probability * pixels.flatten()).sum().item() == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("edge", [-1.0, 1.0])
def test_the_outermost_pixel_values_take_the_tails(edge: float) -> None:
    x0 = torch.full((1, 1, 1, 1), edge)
    t = torch.zeros(1, dtype=torch.int64)
    far = FULL.losses(torch.zeros(1, 2, 1, 1), x0, 3 * x0, t, torch.zeros_like(x0))
    assert far.vb.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("t", [0, 999])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_losses_are_finite_at_both_ends(t: int, size: float) -> None:
    x0, noise, output = images()
    at = torch.full((4,), t)
    output[:, :2] *= size
    losses = FULL.losses(output.requires_grad_(), x0, FULL.add_noise(x0, at, noise), at, noise)
    losses.loss.sum().backward()
    assert losses.loss.isfinite().all()
    assert output.grad.isfinite().all()


def test_the_bound_trains_the_variance_alone_and_the_error_the_noise_alone() -> None:
    x0, noise, output = images()
    t = torch.tensor([0, 1, 500, 999])
    x_t = FULL.add_noise(x0, t, noise)
    for name, trained, untouched in (("vb", slice(2, 4), slice(0, 2)), ("mse", slice(0, 2), slice(2, 4))):
        leaf = output.clone().requires_grad_()
        getattr(FULL.losses(leaf, x0, x_t, t, noise), name).sum().backward()
        assert not leaf.grad[:, untouched].any()
        assert (leaf.grad[:, trained] != 0).flatten(1).any(1).all()


def test_the_schedule_is_float64_and_its_steps_are_float32() -> None:
    diffusion = Diffusion(torch.tensor([0.1, 0.2]), torch.tensor([3, 7], dtype=torch.int32))
    assert (diffusion.betas.dtype, diffusion.timestep_map.dtype) == (torch.float64, torch.int64)
    x0, noise, output = images()
    t = torch.tensor([0, 1, 0, 1])
    for step in (diffusion.add_noise(x0, t, noise), diffusion.ddpm_step(output, x0, t, noise)):
        assert step.dtype == torch.float32


def test_steps_run_on_the_device_of_the_images() -> None:
    x0, noise, output = (tensor.to("meta") for tensor in images())
    t = torch.zeros(4, dtype=torch.int64, device="meta")
    diffusion = Diffusion.linear(10)
    assert diffusion.add_noise(*images()[:1], torch.zeros(4, dtype=torch.int64), images()[1]).device.type == "cpu"
    for step in (
        diffusion.add_noise(x0, t, noise),
        diffusion.ddpm_step(output, x0, t, noise),
        diffusion.ddim_step(output, x0, t),
        diffusion.losses(output, x0, x0, t, noise).loss,
    ):
        assert step.device.type == "meta"


def test_a_schedule_of_one_step_has_a_finite_variance() -> None:
    one = FULL.respaced(1)
    assert one.posterior_log_variance.item() == pytest.approx(math.log(one.betas[0].item()))
    x0, noise, output = images()
    t = torch.zeros(4, dtype=torch.int64)
    expected = one.predict_x0(output[:, :2], x0, t)
    torch.testing.assert_close(one.ddpm_step(output, x0, t, noise), expected, rtol=1e-5, atol=1e-6)
