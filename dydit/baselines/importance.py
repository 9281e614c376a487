"""Importance of attention heads and MLP channels, by which a static DiT is pruned.

Random and magnitude need the weights alone. Taylor importance (Molchanov et al. 2017, arXiv 1611.06440) is the change
of the loss, to first order, when a structure is set to zero: the absolute value of the sum of weight times gradient
over all its weights, with gradients of the denoising loss summed over timesteps. Diff-Pruning (Fang et al. 2023, arXiv
2305.10924) leaves out the noisy timesteps, whose gradients say little: it sums from t = 0 upwards and ends where the
loss has fallen below a share of the largest one seen.

Shape letters: L blocks, H heads, M hidden channels of an MLP, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dydit.diffusion import Diffusion
from dydit.dit import Attention, DiT, Mlp
from dydit.errors import InputError

LOSS_SHARE = 0.05
"""Share of the largest loss at which Diff-Pruning ends its sum over timesteps: T in its paper."""
TIMESTEPS = 100
"""Timesteps at which gradients are taken, evenly spaced over all."""


@dataclass(frozen=True)
class Calibration:
    """What gradients are taken on: images or latents (N, C, S, S), labels (N,), and the seed of the noise."""

    images: Tensor
    labels: Tensor
    seed: int = 0


@dataclass(frozen=True)
class Importance:
    """Of every structure in every block: heads (L, H) and channels (L, M), float64; larger is kept."""

    heads: Tensor
    channels: Tensor


def random_importance(model: DiT, _: Calibration | None, seed: int) -> Importance:
    """Uniform random numbers."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.rand(config.depth, count, generator=generator, dtype=torch.float64)

    return Importance(draw(config.num_heads), draw(config.mlp_hidden))


def magnitude_importance(model: DiT, *_: object) -> Importance:
    """L2 norm of all weights of a structure."""
    return _summed(model, lambda weight: weight.square())


def taylor_importance(model: DiT, calibration: Calibration | None, _: int) -> Importance:
    """First-order change of the loss, gradients from every timestep.

    Raises:
        InputError: no calibration images.
    """
    return _first_order(model, calibration, ends_at=0.0)


def diff_importance(model: DiT, calibration: Calibration | None, _: int) -> Importance:
    """First-order change of the loss, gradients from the timesteps that Diff-Pruning keeps.

    Raises:
        InputError: no calibration images.
    """
    return _first_order(model, calibration, ends_at=LOSS_SHARE)


CRITERIA: dict[str, Callable[[DiT, Calibration | None, int], Importance]] = {
    "random": random_importance,
    "magnitude": magnitude_importance,
    "taylor": taylor_importance,
    "diff": diff_importance,
}
"""Importances by name: (network, calibration, seed of random numbers) -> importance."""


def _first_order(model: DiT, calibration: Calibration | None, ends_at: float) -> Importance:
    if calibration is None:
        raise InputError("pruning by gradients needs calibration images and labels; give some of the training set")
    copied = type(model)(**model.config.kwargs()).to(model.pos_embed.device)
    copied.load_state_dict(model.state_dict())
    copied.eval()  # no label is dropped
    largest = 0.0
    with torch.enable_grad():
        for loss in _losses(copied, calibration):
            value = loss.item()
            largest = max(largest, value)
            if value < ends_at * largest:
                break
            loss.backward()  # type: ignore[no-untyped-call]
    return _summed(copied, _change, absolute=True)


def _change(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "gradients were taken"
    return weight * weight.grad


def _losses(model: DiT, calibration: Calibration) -> Iterator[Tensor]:
    """The noise-prediction loss at timesteps from 0 upwards, each with the same noise."""
    diffusion, x0, device = Diffusion.linear(), calibration.images, model.pos_embed.device
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(calibration.seed))
    x0, y, noise = (tensor.to(device) for tensor in (x0, calibration.labels, noise))
    for step in range(0, len(diffusion), len(diffusion) // TIMESTEPS):
        t = torch.full((len(x0),), step, device=device)
        output = model(diffusion.add_noise(x0, t, noise), t, y)
        yield (output[:, : x0.shape[1]] - noise).square().mean()


def _summed(model: DiT, of_weight: Callable[[Tensor], Tensor], absolute: bool = False) -> Importance:
    """`of_weight` of every weight, summed over each head and each channel; with `absolute`, the size of the sums."""
    heads, channels = [], []
    with torch.no_grad():
        for block in model.blocks:
            assert isinstance(block.attn, Attention) and isinstance(block.mlp, Mlp)
            count, width = block.attn.heads, model.config.hidden_size
            rows = of_weight(block.attn.qkv.weight).double().reshape(3, count, -1).sum((0, 2))
            heads.append(rows + of_weight(block.attn.proj.weight).double().reshape(width, count, -1).sum((0, 2)))
            fc1, fc2 = of_weight(block.mlp.fc1.weight).double(), of_weight(block.mlp.fc2.weight).double()
            channels.append(fc1.sum(1) + fc2.sum(0))
    found = torch.stack(heads).cpu(), torch.stack(channels).cpu()
    return Importance(*(part.abs() if absolute else part for part in found))
