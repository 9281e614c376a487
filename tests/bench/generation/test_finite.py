"""NaN and infinity end a sampling run, which names the step where they arose, the images and the layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.generation import samplers
from bench.generation.engines import behind_engine
from bench.generation.finite import FiniteModel
from bench.models import SamplingModel
from dydit import DiT, DyDiT, InputError
from dydit.sampling import ImageNoise

CONFIG: dict[str, Any] = dict(
    input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=2, num_heads=4, num_classes=3
)
INDICES = range(4, 10)
LABELS = ImageNoise(0, INDICES).labels(3)


def network(kind: type[DiT]) -> DiT:
    torch.manual_seed(0)
    model = kind(**CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def drawn(model: Any, steps: int = 4, scale: float = 1.5, sampler: str = "ddpm") -> Tensor:
    solver, device = samplers.make_solver(sampler, steps), torch.device("cpu")
    made = model if not isinstance(model, tuple) else behind_engine(*model, solver.timesteps, torch.float32)
    config = model[0].config if isinstance(model, tuple) else DiT(**CONFIG).config
    return samplers.guided_samples(solver, made, config, INDICES, seed=0, scale=scale, device=device)[0]


@pytest.mark.parametrize("sampler", ["ddpm", "dpm-solver++"])
@pytest.mark.parametrize(
    ("kind", "engine", "method"),
    [
        (DiT, "static", None),
        (DyDiT, "masked", None),
        (DyDiT, "realised", None),
        (DiT, "deepcache:2", "deepcache:2"),
    ],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers
def test_the_images_the_step_and_the_layer_are_named(
    kind: type[DiT], engine: str, method: str | None, sampler: str
) -> None:
    """One label's embedding overflows in the first layer that takes a product of it."""
    model = network(kind)
    with torch.no_grad():
        model.y_embedder.embedding_table.weight[:, 0] = torch.tensor([-1e4, 1e4, -1e4, -1e4])  # SiLU: 0 or 1e4
        model.blocks[1].adaLN_modulation[1].weight[:, 0] = 1e35
    broken = ", ".join(str(index) for index, label in zip(INDICES, LABELS.tolist(), strict=True) if label == 1)
    assert 0 < broken.count(",") + 1 < len(INDICES)
    first = samplers.make_solver(sampler, 4).timesteps[0]
    with pytest.raises(InputError) as caught:
        drawn((model, engine, method), sampler=sampler)
    assert str(caught.value) == (
        f"image {broken}: NaN or infinity in step 1 of 4, timestep {first}, first in blocks.1.adaLN_modulation.1; the "
        "weights are too large for the arithmetic: try --dtype fp32, or another checkpoint"
    )


def test_what_guidance_and_the_sampler_overflow_is_told_apart() -> None:
    def large(x: Tensor, t: int, y: Tensor) -> Tensor:
        sign = torch.where(y == 3, 1.0, -1.0)[:, None, None, None]
        return torch.cat([sign * torch.full_like(x, 2e38), torch.zeros_like(x)], 1) + 0 * torch.cat([x, x], 1)

    everything = "image 4, 5, 6, 7, 8 and 1 more"
    with pytest.raises(InputError, match=f"{everything}: NaN or infinity in step 2 of 4, .* began with; guidance"):
        drawn(large)
    with pytest.raises(InputError, match=f"{everything}: NaN or infinity after the last step; guidance"):
        drawn(large, steps=1)


def test_what_runs_the_network_is_told_apart_from_it() -> None:
    model = network(DiT)

    class Wrong(SamplingModel):
        def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
            return super().__call__(x, t, y) / 0

    with pytest.raises(InputError, match=r"in step 1 of 4, timestep \d+, and not in the network by itself"):
        drawn(Wrong(model))
    assert not model.blocks[0].attn._forward_hooks


def test_finite_numbers_pass_unchanged() -> None:
    model = SamplingModel(network(DiT))
    x, t, y = torch.randn(12, 1, 8, 8), torch.full((12,), 5), torch.zeros(12, dtype=torch.int64)
    watched = FiniteModel(model, [5, 3], INDICES)
    assert torch.equal(watched(x, t, y), model(x, t, y)) and watched.step == 1
    assert watched.check(x) is x


def test_no_step_waits_for_a_gpu() -> None:
    """Tensors of the device `meta` have no values: whatever reads one raises."""
    x, y = torch.zeros(2, 1, 8, 8, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    watched = FiniteModel(lambda x, t, y: x * t, [5, 3], range(2))
    assert watched(watched(x, 5, y), 3, y).shape == x.shape and watched.step == 2
    with pytest.raises(RuntimeError, match="meta tensor"):
        watched.check(x)
