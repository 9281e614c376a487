"""What runs a network while images are drawn: an engine, a method of `dydit.baselines`, or the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench.models import Candidate, SamplingModel
from dydit import DiT, DyDiT, InputError, Model
from dydit.baselines import apply_method
from dydit.inference import Engine, WidthPlan, tuned_products

ENGINES = ("static", "masked", "realised")
OWN_ENGINE = "own"
"""What runs a network that a factory made: its own code."""


def named_class(model: str) -> type[DiT]:
    """The class of a network by its name, such as `DyDiT-XL/2`."""
    return DyDiT if model.startswith("DyDiT") else DiT


def choose_engine(kind: type[DiT], engine: str | None) -> str:
    """The engine of `ENGINES` that runs a network of this class: the one asked for, or the fastest.

    Raises:
        InputError: the one asked for does not run such networks.
    """
    fitting: tuple[str, ...] = ("static",)
    if issubclass(kind, DyDiT):  # the realised engine does not know the ablations that change the masks
        fitting = ("realised", "masked") if kind.realised else ("masked",)
    if engine is not None and engine not in fitting:
        raise InputError(
            f"engine {engine}: the checkpoint holds a {kind.__name__}, which runs as {' or '.join(fitting)}"
        )
    return engine or fitting[0]


def behind_engine(
    network: DiT | Candidate, engine: str, method: str | None, timesteps: Sequence[int], dtype: torch.dtype
) -> SamplingModel:
    """A network, which is on its device in `dtype`, behind what runs it: (x, t, y) in float32 -> output in float32.

    Args:
        network: a DiT, a DyDiT, or one that a factory made.
        engine: of `ENGINES`, or `OWN_ENGINE`.
        method: of `dydit.baselines`, in the engine's place.
        timesteps: of the sampler, for which the widths are planned.
        dtype: in which the network computes.

    Raises:
        InputError: a method that does not fit the network.
    """
    if isinstance(network, Candidate):
        return SamplingModel(network.module, dtype)
    if method is not None:
        return SamplingModel(apply_method(network, method), dtype)
    model: Model = network
    if isinstance(network, DyDiT) and engine == "realised":
        model = Engine(network, WidthPlan.from_routers(network, timesteps))
    elif engine == "static":
        model = Engine(network)
    return SamplingModel(model, dtype)


def tune(model: SamplingModel, rows: int) -> list[dict[str, Any]]:
    """Let the engine inside choose its fastest kernels for a batch of `rows`; what `tuned_products` says of them.

    Nothing where the network has no kernels to choose among.
    """
    engine = model.module
    if not isinstance(engine, Engine) or engine.plan is None or not engine.backend.tunable:
        return []
    engine.tune(rows)
    return tuned_products()
