"""Three samplers behind one interface: parity with diffusers, and convergence where the solution is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.generation import samplers
from dydit.config import DiTConfig
from dydit.diffusion import Diffusion
from dydit.errors import InputError
from dydit.sampling import ImageNoise

pytestmark = pytest.mark.filterwarnings(
    # diffusers makes an array of a tensor, which NumPy 2 wants done with a copy keyword.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

CLASSES, SHAPE, INDICES = 3, (4, 2, 2), [0, 1, 2, 3, 4]
CONFIG = DiTConfig(input_size=2, patch_size=1, in_channels=4, hidden_size=4, depth=1, num_heads=1, num_classes=CLASSES)
"""Of networks of that shape."""
SPREAD = 0.5
PRODUCTS = Diffusion.linear().alphas_cumprod


class Gaussians:
    """The exact noise prediction for images of class y drawn from N(y - 1, SPREAD^2); the null class has mean 0.

    The variance interpolation is the same `interpolation` everywhere.
    """

    def __init__(self, interpolation: float = -1.0) -> None:
        self.interpolation = interpolation
        self.seen: list[int] = []

    def __call__(self, x: Tensor, t: int, y: Tensor) -> Tensor:
        self.seen.append(t)
        product = PRODUCTS[t]
        mean = torch.where(y == CLASSES, 0.0, y - 1.0)[:, None, None, None]
        eps = (1 - product).sqrt() * (x.double() - product.sqrt() * mean) / (product * SPREAD**2 + 1 - product)
        return torch.cat([eps, torch.full_like(eps, self.interpolation)], dim=1).float()


def drawn(run: samplers.Solver, model: Any, scale: float = 1.5) -> Tensor:
    device = torch.device("cpu")
    x, y = samplers.guided_samples(run, model, CONFIG, INDICES, seed=7, scale=scale, device=device)
    assert torch.equal(y, ImageNoise(7, INDICES).labels(CLASSES))
    return x


def guided_eps(model: Any, x: Tensor, t: int, y: Tensor, scale: float) -> Tensor:
    """Guidance on three of the four channels, written down once more: (N, 4, S, S)."""
    own, null = (model(x, t, labels)[:, :4] for labels in (y, torch.full_like(y, CLASSES)))
    return torch.cat([null[:, :3] + scale * (own - null)[:, :3], own[:, 3:]], dim=1)


def by_diffusers(scheduler: Any, steps: int, model: Any, scale: float, learned: bool) -> tuple[Tensor, list[int]]:
    """A plain loop over a scheduler of diffusers, on the same labels and noise."""
    scheduler.set_timesteps(steps)
    source = ImageNoise(7, INDICES)
    y, x = source.labels(CLASSES), source.normal(SHAPE)
    for t in scheduler.timesteps:
        output = guided_eps(model, x, int(t), y, scale)
        if learned:
            output = torch.cat([output, torch.full_like(output, model.interpolation)], dim=1)
        chance = {"generator": source.generators} if learned else {}
        x = scheduler.step(output, t, x, **chance).prev_sample
    return x, scheduler.timesteps.tolist()


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize(("steps", "interpolation"), [(50, -1.0), (1000, 0.3)])
def test_ddpm_is_that_of_diffusers(steps: int, interpolation: float, scale: float) -> None:
    """On a respaced schedule only at the lower variance: the upper one of diffusers is that of the full schedule."""
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(clip_sample=False, variance_type="learned_range", timestep_spacing="linspace")
    expected, timesteps = by_diffusers(theirs, steps, Gaussians(interpolation), scale, learned=True)
    run = samplers.make_solver("ddpm", steps)
    assert list(run.timesteps) == timesteps
    torch.testing.assert_close(drawn(run, Gaussians(interpolation), scale), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("steps", [10, 250])
def test_ddim_is_that_of_diffusers(steps: int, scale: float) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    expected, timesteps = by_diffusers(theirs, steps, Gaussians(), scale, learned=False)
    run = samplers.make_solver("ddim", steps)
    assert list(run.timesteps) == timesteps
    torch.testing.assert_close(drawn(run, Gaussians(), scale), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_dpm_solver_is_that_of_diffusers_with_its_default_schedule(steps: int, scale: float) -> None:
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler()  # linear betas from 1e-4 to 0.02, order 2, dpmsolver++
    expected, timesteps = by_diffusers(theirs, steps, Gaussians(), scale, learned=False)
    run = samplers.make_solver("dpm-solver++", steps)
    assert list(run.timesteps) == timesteps
    torch.testing.assert_close(drawn(run, Gaussians(0.7), scale), expected, rtol=0, atol=3e-6)


def exact() -> Tensor:
    """Where the probability flow without guidance ends: an image keeps its distance from the mean, in spreads."""
    source = ImageNoise(7, INDICES)
    y, x = source.labels(CLASSES), source.normal(SHAPE)
    product = PRODUCTS[999]
    mean = (y - 1.0)[:, None, None, None]
    spreads = (x - product.sqrt() * mean) / (product * SPREAD**2 + 1 - product).sqrt()
    return (mean + SPREAD * spreads).float()


def test_both_deterministic_samplers_approach_the_exact_solution_and_the_solver_faster() -> None:
    def error(sampler: str, steps: int) -> float:
        return (drawn(samplers.make_solver(sampler, steps), Gaussians(), 1.0) - exact()).abs().max().item()

    assert error("dpm-solver++", 500) < 1e-3
    assert error("ddim", 1000) < 1e-2
    assert error("dpm-solver++", 50) < error("ddim", 50) / 5
    assert error("dpm-solver++", 20) > 4 * error("dpm-solver++", 80)


def test_the_solver_with_many_steps_gives_the_images_of_ddim_with_many_steps() -> None:
    solver, ddim = (drawn(samplers.make_solver(name, steps), Gaussians()) for name, steps in SAME_LIMIT)
    torch.testing.assert_close(solver, ddim, rtol=0, atol=1e-2)


SAME_LIMIT = [("dpm-solver++", 500), ("ddim", 1000)]


class Points(Gaussians):
    """The exact noise prediction for one image of each class, a constant one: a consistency model of its own."""

    def __call__(self, x: Tensor, t: int, y: Tensor) -> Tensor:
        self.seen.append(t)
        product = PRODUCTS[t]
        image = torch.where(y == CLASSES, 0.0, y - 1.0)[:, None, None, None]
        return ((x.double() - product.sqrt() * image) / (1 - product).sqrt()).float()


@pytest.mark.parametrize("steps", [1, 4])
def test_a_consistency_model_is_sampled_in_few_steps_with_the_noise_of_each_image(steps: int) -> None:
    run, model, before = samplers.make_solver("lcm", steps), Points(), torch.get_rng_state()
    images = ImageNoise(7, INDICES).labels(CLASSES)[:, None, None, None] - 1.0
    torch.testing.assert_close(drawn(run, model, 1.0), images.expand(-1, *SHAPE).float(), rtol=0, atol=1e-3)
    assert model.seen == list(run.timesteps) and len(model.seen) == steps and model.seen[0] == 999
    assert torch.equal(before, torch.get_rng_state())
    # Of a network that is none, the noise shows: it is the image's own, whatever the batch.
    whole = drawn(run, Gaussians())
    part, _ = samplers.guided_samples(
        run, Gaussians(), CONFIG, INDICES[2:3], seed=7, scale=1.5, device=torch.device("cpu")
    )
    torch.testing.assert_close(part, whole[2:3], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 7), ("ddim", 8), ("dpm-solver++", 7), ("lcm", 4)])
def test_the_network_sees_the_timesteps_that_the_run_names_and_a_second_run_repeats_the_first(
    sampler: str, steps: int
) -> None:
    run, model = samplers.make_solver(sampler, steps), Gaussians()
    first = drawn(run, model)
    assert model.seen == list(run.timesteps)
    assert len(model.seen) == steps and model.seen == sorted(set(model.seen), reverse=True)
    assert torch.equal(drawn(run, model), first)  # no state of a solver survives a batch


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_every_step_is_tracked(sampler: str) -> None:
    taken: list[int] = []

    def track(steps: Any) -> Any:
        for step in steps:
            taken.append(step)
            yield step

    run, device = samplers.make_solver(sampler, 5), torch.device("cpu")
    samplers.guided_samples(run, Gaussians(), CONFIG, INDICES, seed=0, scale=1.0, device=device, track=track)
    assert len(taken) == 5


@pytest.mark.parametrize(
    ("sampler", "steps", "message"),
    [
        ("euler", 10, "ddpm, ddim, dpm-solver++"),
        ("ddpm", 0, "1 to 1000"),
        ("ddim", 300, "divisor"),
        ("dpm-solver++", 0, "1 to 999"),
        ("dpm-solver++", 1000, "1 to 999"),
        ("lcm", 51, "1 to 50"),
    ],
)
def test_what_no_sampler_can_do_is_refused(sampler: str, steps: int, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        samplers.make_solver(sampler, steps)


def test_the_solver_takes_as_many_steps_as_there_are_intervals() -> None:
    result = drawn(samplers.make_solver("dpm-solver++", 999), Gaussians())
    assert result.isfinite().all()
