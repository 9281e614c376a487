"""Small random models and the shape of a refusal, for every test of the method."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dydit import DiT, DyDiT, InputError

CONFIG = {
    "input_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 48,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 10,
}


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a value of its own; routers open about half of what they guard."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
            parameter.normal_(generator=generator).mul_(fan_in**-0.5)
            if name.endswith(("_rate.router.weight", "mlp_head.2.weight")):
                parameter.mul_(4.0)


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """(kind, seed, **config) -> random model in evaluation mode."""

    def make(kind: type[DiT] = DyDiT, seed: int = 0, **config: Any) -> DiT:
        model = kind(**{**CONFIG, **config})
        randomise(model, seed)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def draw() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """(model, n, seed) -> images, timesteps and labels."""

    def make(model: DiT, n: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        config, generator = model.config, torch.Generator().manual_seed(seed)
        x = torch.randn(n, config.in_channels, config.input_size, config.input_size, generator=generator)
        t = torch.randint(1000, (n,), generator=generator)
        return x, t, torch.randint(config.num_classes, (n,), generator=generator)

    return make


@pytest.fixture(scope="session")
def refusal() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """`with refusal("a", "b"):` wants an InputError of one line that names a and b."""

    @contextlib.contextmanager
    def expect(*parts: str) -> Iterator[None]:
        with pytest.raises(InputError) as caught:
            yield
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        for part in parts:
            assert part in message

    return expect


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models lose time to threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
