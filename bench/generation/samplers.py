"""The samplers of the suite behind one interface: which timesteps a run visits, and the run itself.

`ddpm` and `ddim` are those of `dydit.diffusion`. On the same noise schedule and by diffusers, `dpm-solver++` is the
multistep solver of order 2 (Lu et al. 2022, arXiv 2211.01095), and `lcm` draws from a network that was distilled into a
latent consistency model (Luo et al. 2023, arXiv 2310.04378).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from bench.generation.finite import FiniteModel
from bench.models import ImageShape, begin_run
from dydit import Diffusion, InputError, Model, Sampler, draw
from dydit.sampling import Track, denoise, predict

_MARKOV: dict[str, Sampler] = {"ddpm": "ddpm", "ddim": "ddim"}
SAMPLERS = (*_MARKOV, "dpm-solver++", "lcm")
LCM_STEPS = 50
"""Of the solver that is distilled: an `lcm` run visits some of its timesteps."""


class Sampling(TypedDict):
    """How a solver samples: the arguments of `dydit.sampling.denoise` of these names."""

    noise: Callable[[int], Tensor]
    scale: float
    null_label: int | None
    track: Track


@dataclass(frozen=True)
class Markov:
    """`ddpm`, ancestral with learned variances, or `ddim` with eta = 0, on a respaced schedule."""

    sampler: Sampler
    diffusion: Diffusion

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Original timesteps in the order in which the network sees them."""
        return tuple(self.diffusion.timestep_map.flip(0).tolist())

    def solve(self, model: Model, x: Tensor, y: Tensor, **sampling: Unpack[Sampling]) -> Tensor:
        """Images (N, C, S, S) from initial noise x (N, C, S, S) and labels y (N,); as `dydit.sampling.denoise`."""
        return denoise(model, self.diffusion, x, y, sampler=self.sampler, **sampling)


@dataclass(frozen=True)
class MultistepSolver:
    """`dpm-solver++` of order 2; deterministic. Its state is fresh in every run."""

    steps: int

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Original timesteps in the order in which the network sees them."""
        return tuple(self._scheduler().timesteps.tolist())

    def solve(self, model: Model, x: Tensor, y: Tensor, **sampling: Unpack[Sampling]) -> Tensor:
        """As `Markov.solve`; no `noise` is drawn, and the network's variances go unused."""
        scheduler = self._scheduler()
        timesteps = scheduler.timesteps.tolist()
        for step in sampling["track"](range(len(timesteps))):
            t = timesteps[step]
            # Only the noise: diffusers itself would cut the variances off at the third channel.
            eps = predict(model, x, t, y, sampling["scale"], sampling["null_label"])[:, : x.shape[1]]
            x = self._step(scheduler, eps, step, x, sampling["noise"])
        return x

    def _step(self, scheduler: Any, eps: Tensor, step: int, x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        """The images of the next step."""
        result: Tensor = scheduler.step(eps, int(scheduler.timesteps[step]), x, return_dict=False)[0]
        return result

    def _scheduler(self) -> Any:
        from diffusers import DPMSolverMultistepScheduler

        kind: Any = DPMSolverMultistepScheduler  # untyped
        scheduler = kind(**_SCHEDULE, solver_order=2, algorithm_type="dpmsolver++")
        scheduler.set_timesteps(self.steps)
        scheduler.set_begin_index(0)
        return scheduler


class ConsistencySolver(MultistepSolver):
    """`lcm`: at every step the network's whole way to an image, with noise added again for the next one."""

    def _step(self, scheduler: Any, eps: Tensor, step: int, x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        own = torch.Generator()  # diffusers draws noise for the batch, which each image's own replaces
        image: Tensor = scheduler.step(eps, int(scheduler.timesteps[step]), x, own, return_dict=False)[1]
        if step == self.steps - 1:
            return image
        noisy: Tensor = scheduler.add_noise(image, noise(step), scheduler.timesteps[step + 1])
        return noisy

    def _scheduler(self) -> Any:
        from diffusers import LCMScheduler

        kind: Any = LCMScheduler  # untyped
        scheduler = kind(**_SCHEDULE)
        scheduler.set_timesteps(self.steps, original_inference_steps=LCM_STEPS)
        scheduler.set_begin_index(0)
        return scheduler


_SCHEDULE: dict[str, Any] = {"trained_betas": Diffusion.linear().betas.tolist(), "prediction_type": "epsilon"}
Solver = Markov | MultistepSolver


def make_solver(sampler: str, steps: int) -> Solver:
    """A sampler with its number of steps.

    Raises:
        InputError: no such sampler, or a number of steps that it cannot take.
    """
    if sampler in _MARKOV:
        name = _MARKOV[sampler]
        return Markov(name, Diffusion.linear().respaced(steps, name))
    if sampler not in SAMPLERS:
        raise InputError(f"sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    # 1000 steps of the solver would visit a timestep twice, and divide by zero.
    most, kind = (LCM_STEPS, ConsistencySolver) if sampler == "lcm" else (len(Diffusion.linear()) - 1, MultistepSolver)
    if not 1 <= steps <= most:
        raise InputError(f"steps = {steps}: choose 1 to {most} {sampler} steps")
    return kind(steps)


def guided_samples(
    solver: Solver,
    model: Model,
    config: ImageShape,
    indices: Sequence[int],
    *,
    seed: int,
    scale: float,
    device: torch.device,
    track: Track = lambda steps: steps,
    classes: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples (N, C, S, S), of pixels or latents, and labels (N,) of the images `indices`, each from its own noise.

    Args:
        solver: see `make_solver`.
        model: the network; where it keeps something from step to step, it is told that a run begins.
        config: of the network.
        indices: of the images, N of them.
        seed: of all labels and noise.
        scale: of guidance; 1 is none.
        device: of the network.
        track: progress wrapper over the steps.
        classes: that labels are drawn from; by default all.

    Raises:
        InputError: NaN or infinity in a step; images, step and layer are named.
    """
    finite = FiniteModel(model, solver.timesteps, indices)

    def solve(x: Tensor, y: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        x = solver.solve(finite, x, y, noise=noise, scale=scale, null_label=config.null_label, track=track)
        return finite.check(x)

    begin_run(model, solver.timesteps)
    shape = (config.in_channels, config.input_size, config.input_size)
    return draw(solve, shape, config.num_classes, indices, seed=seed, device=device, classes=classes)
