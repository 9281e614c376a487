"""Gaussian diffusion with learned variances: schedule, respacing, training loss, DDPM and DDIM steps.

Linear betas and the hybrid loss of improved DDPM (arXiv 2102.09672), as DiT and DyDiT train with them. The schedule
is float64; its coefficients are cast to float32 where they meet images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from dydit.config import TIMESTEPS
from dydit.errors import InputError, check_indices

Sampler = Literal["ddpm", "ddim"]
Model = Callable[[Tensor, Tensor | int, Tensor], Tensor]
"""(x, original timesteps, labels) -> noise and variance interpolation, channels doubled.

A sampler gives the timestep of a step as a number, which lies on no device: a model that chooses by it, such as which
heads are open, need not wait for the GPU until it knows.
"""


@dataclass(frozen=True)
class Losses:
    """Per-image losses, each (N,): `mse` of the noise, `vb` in bits per dimension; `loss` is their sum."""

    mse: Tensor
    vb: Tensor

    @property
    def loss(self) -> Tensor:
        return self.mse + self.vb


def kept_timesteps(steps: int, sampler: Sampler, total: int = TIMESTEPS) -> list[int]:
    """Original timesteps, ascending, that a run of `steps` steps visits.

    DDPM: rounded multiples of (total - 1) / (steps - 1). DDIM: the first integer stride giving exactly `steps`.

    Raises:
        InputError: no such subset exists, or no such sampler.
    """
    check_sampler(sampler)
    if not isinstance(steps, int) or not 1 <= steps <= total:
        raise InputError(f"steps = {steps}: choose 1 to {total} sampling steps")
    if sampler == "ddim":
        for stride in range(1, total + 1):
            if len(range(0, total, stride)) == steps:
                return list(range(0, total, stride))
        raise InputError(f"no integer stride gives exactly {steps} DDIM steps of {total}; choose a divisor of {total}")
    if steps == 1:
        return [0]
    stride_ = (total - 1) / (steps - 1)
    kept, position = [], 0.0
    for _ in range(steps):  # accumulated, not multiplied: ties round as in the published schedules
        kept.append(round(position))
        position += stride_
    return kept


def check_sampler(sampler: str) -> None:
    """Refuse a name that is none of `Sampler`, which would be taken for ddpm.

    Raises:
        InputError: it is.
    """
    if sampler not in get_args(Sampler):
        raise InputError(f"sampler {sampler!r}: choose {' or '.join(get_args(Sampler))}")


class Diffusion:
    """A noise schedule and the steps that use it.

    Every step takes images (N, C, S, S) with as many schedule steps t, int64 (N,) from 0 to S - 1, and raises an
    InputError for others; the numbers in t are looked at on the CPU alone (see `dydit.errors.check_indices`).

    Args:
        betas: float64 (S,), the variance added by each step, above 0 and below 1.
        timestep_map: int64 (S,), the original timestep that the network sees at each step.

    Raises:
        InputError: no step, betas out of range, or another number of timesteps.
    """

    def __init__(self, betas: Tensor, timestep_map: Tensor) -> None:
        if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas < 1)).all()):
            raise InputError(f"noise schedule: betas {tuple(betas.shape)}; give at least one, all between 0 and 1")
        if timestep_map.shape != betas.shape:
            raise InputError(f"noise schedule: {len(betas)} betas for timesteps {tuple(timestep_map.shape)}")
        self.betas = betas.double()
        self.timestep_map = timestep_map.long()
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)
        self._coefficients: dict[tuple[str, torch.device], Tensor] = {}

    @classmethod
    def linear(cls, steps: int = TIMESTEPS) -> Diffusion:
        """The training schedule: betas linear from 1e-4 to 0.02."""
        return cls(torch.linspace(1e-4, 0.02, steps, dtype=torch.float64), torch.arange(steps))

    def respaced(self, steps: int, sampler: Sampler = "ddpm") -> Diffusion:
        """The schedule restricted to `steps` steps, betas recomputed from the kept cumulative products."""
        kept = kept_timesteps(steps, sampler, len(self))
        products = self.alphas_cumprod[kept]
        previous = torch.cat([products.new_ones(1), products[:-1]])
        return Diffusion(1 - products / previous, self.timestep_map[kept])

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def previous_cumprod(self) -> Tensor:
        return torch.cat([self.betas.new_ones(1), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        return self.betas * (1 - self.previous_cumprod) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """Clipped at t = 0, where the variance is 0, to the value at t = 1."""
        variance = self.posterior_variance.clone()
        if len(variance) > 1:
            variance[0] = variance[1]
        else:
            variance[0] = self.betas[0]
        return variance.log()

    @cached_property
    def posterior_x0_weight(self) -> Tensor:
        return self.betas * self.previous_cumprod.sqrt() / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_xt_weight(self) -> Tensor:
        return (1 - self.previous_cumprod) * (1 - self.betas).sqrt() / (1 - self.alphas_cumprod)

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) for schedule steps t (N,)."""
        self._check(t, x0, noise)
        return self._at("sqrt_cumprod", t, x0) * x0 + self._at("sqrt_one_minus_cumprod", t, x0) * noise

    def losses(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Losses:
        """Hybrid loss of a network output on x_t.

        Args:
            output: (N, 2 C, S, S), noise prediction and variance interpolation.
            x0, x_t, noise: (N, C, S, S).
            t: schedule steps (N,).

        Raises:
            InputError: shapes that do not belong together, such as an output without variances.
        """
        self._check(t, x0, x_t, noise)
        eps, interpolation = _halves(output, x_t)
        mse = _mean_over_image((noise - eps) ** 2)
        # The bound trains the variance only: the mean is detached.
        vb = self._bound_term(eps.detach(), interpolation, x0, x_t, t)
        return Losses(mse=mse, vb=vb * (len(self) / TIMESTEPS))

    def ddpm_step(self, output: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """One ancestral step from schedule steps t (N,); no noise is added at t = 0."""
        self._check(t, x_t, noise)
        eps, interpolation = _halves(output, x_t)
        mean = self._posterior_mean(self.predict_x0(eps, x_t, t), x_t, t)
        log_variance = self._log_variance(interpolation, t)
        added = (t > 0).to(x_t.dtype)[:, None, None, None]
        return mean + added * torch.exp(0.5 * log_variance) * noise

    def ddim_step(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """One deterministic DDIM step (eta = 0); variances in the output go unused."""
        self._check(t, x_t, output[:, : x_t.shape[1]])
        eps = output[:, : x_t.shape[1]]
        x0 = self.predict_x0(eps, x_t, t)
        previous = self._at("previous_cumprod", t, x_t)
        return x0 * previous.sqrt() + (1 - previous).sqrt() * eps

    def predict_x0(self, eps: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0 implied by a noise prediction."""
        return self._at("sqrt_recip_cumprod", t, x_t) * x_t - self._at("sqrt_recipm1_cumprod", t, x_t) * eps

    def _check(self, t: Tensor, x: Tensor, *others: Tensor) -> None:
        """Refuse steps that are none of the schedule, and images that would be repeated to the size of others."""
        for other in others:
            if other.shape != x.shape or x.ndim != 4:
                raise InputError(
                    f"images of shapes {tuple(x.shape)} and {tuple(other.shape)}; they must have one, (N, C, S, S)"
                )
        check_indices("schedule steps", t, len(x), len(self), f"0 to {len(self) - 1}")

    def _posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._at("posterior_x0_weight", t, x_t) * x0 + self._at("posterior_xt_weight", t, x_t) * x_t

    def _log_variance(self, interpolation: Tensor, t: Tensor) -> Tensor:
        """v' log beta + (1 - v') log posterior variance, v' = (v + 1) / 2."""
        share = (interpolation + 1) / 2
        upper = self._at("log_betas", t, interpolation)
        return share * upper + (1 - share) * self._at("posterior_log_variance", t, interpolation)

    def _bound_term(self, eps: Tensor, interpolation: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """KL(q || p) of one step, at t = 0 the decoder's negative log-likelihood; bits per dimension, (N,)."""
        true_mean = self._posterior_mean(x0, x_t, t)
        true_log_variance = self._at("posterior_log_variance", t, x_t)
        mean = self._posterior_mean(self.predict_x0(eps, x_t, t), x_t, t)
        log_variance = self._log_variance(interpolation, t)
        kl = 0.5 * (
            log_variance
            - true_log_variance
            - 1.0
            + torch.exp(true_log_variance - log_variance)
            + (true_mean - mean) ** 2 * torch.exp(-log_variance)
        )
        nll = -_discretised_log_likelihood(x0, mean, 0.5 * log_variance)
        return torch.where(t == 0, _mean_over_image(nll), _mean_over_image(kl)) / math.log(2.0)

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Coefficient `name` at steps t as float32 (N, 1, 1, 1) on the device of `like`."""
        key = (name, like.device)
        if key not in self._coefficients:
            self._coefficients[key] = to_device(self._table(name).float(), like.device)
        return self._coefficients[key][t][:, None, None, None]

    def _table(self, name: str) -> Tensor:
        products = self.alphas_cumprod
        tables: dict[str, Callable[[], Tensor]] = {
            "sqrt_cumprod": products.sqrt,
            "sqrt_one_minus_cumprod": lambda: (1 - products).sqrt(),
            "sqrt_recip_cumprod": lambda: (1 / products).sqrt(),
            "sqrt_recipm1_cumprod": lambda: (1 / products - 1).sqrt(),
            "log_betas": self.betas.log,
        }
        table: Tensor = tables[name]() if name in tables else getattr(self, name)
        return table


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """CPU values on a device; a GPU fetches them from page-locked memory by itself, and the host does not wait."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _halves(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and variance interpolation of a network output on images x (N, C, S, S), each of their shape."""
    n, channels, *sides = x.shape
    if tuple(output.shape) != (n, 2 * channels, *sides):
        raise InputError(
            f"network output of shape {tuple(output.shape)} on images {tuple(x.shape)}; ddpm steps and the training "
            "loss need noise and variance, twice the channels: take a network with learn_sigma, or sample by ddim"
        )
    eps, interpolation = output.chunk(2, dim=1)
    return eps, interpolation


def _mean_over_image(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _normal_cdf(x: Tensor) -> Tensor:
    """Standard normal CDF in the tanh approximation that the published losses use."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of 8-bit pixels x in [-1, 1] under a Gaussian integrated over each pixel's bin."""
    centred, inverse = x - mean, torch.exp(-log_scale)
    upper = _normal_cdf(inverse * (centred + 1.0 / 255.0))
    lower = _normal_cdf(inverse * (centred - 1.0 / 255.0))
    tiny = 1e-12
    inside = torch.where(x > 0.999, (1.0 - lower).clamp(min=tiny).log(), (upper - lower).clamp(min=tiny).log())
    return torch.where(x < -0.999, upper.clamp(min=tiny).log(), inside)
