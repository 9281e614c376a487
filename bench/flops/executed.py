"""What a network of anyone executes over a sampling run, counted on the operators that ran, beside what it claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from bench.flops.counters import UnknownOperator, torch_count
from bench.models import Candidate, ImageShape, SamplingModel, begin_run
from dydit import Diffusion, InputError, Sampler, generate, guidance_branches
from dydit.flops import GIGA

GUIDANCE = 1.5


class CountedModel:
    """A sampling model that passes calls on, and counts what each executes per row of its batch."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.per_call: list[float] = []

    def begin_run(self, timesteps: Sequence[int]) -> None:
        """Pass on that a run begins."""
        begin_run(self.model, timesteps)

    def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
        """The model's output.

        Raises:
            InputError: an operator ran of which no cost is known.
        """
        outputs: list[Tensor] = []
        try:
            count = torch_count(lambda x, y: outputs.append(self.model(x, t, y)), (x, y))
        except UnknownOperator as error:
            raise InputError(str(error)) from None
        self.per_call.append(count.total / len(x))
        return outputs[0]


@dataclass(frozen=True)
class RunMacs:
    """MACs of one image and branch: executed and claimed (None: no claim), means over a run; its least and most."""

    executed: float
    claimed: float | None
    least: float
    most: float

    @property
    def gap(self) -> float | None:
        """How much more is executed than claimed, as a share of the claim."""
        return None if not self.claimed else self.executed / self.claimed - 1


def sampler_of(shape: ImageShape) -> Sampler:
    """DDPM, and DDIM for a network that predicts no variances."""
    return "ddpm" if shape.learn_sigma else "ddim"


def count_candidate(candidate: Candidate, *, steps: int, images: int = 1, seed: int = 0) -> RunMacs:
    """Count a guided run of `images` images on the CPU, in float32.

    Raises:
        InputError: a number of steps that the sampler cannot take, an operator of which no cost is known, or a claim
            that is no number.
    """
    shape, sampler = candidate.config, sampler_of(candidate.config)
    diffusion = Diffusion.linear().respaced(steps, sampler)
    counted = CountedModel(SamplingModel(candidate.module))
    candidate.begin_run(diffusion.timestep_map.flip(0).tolist())
    size = (shape.in_channels, shape.input_size, shape.input_size)
    generate(counted, diffusion, size, shape.num_classes, range(images), seed=seed, scale=GUIDANCE, sampler=sampler)
    return run_macs(counted, candidate.claimed_macs())


def run_macs(counted: CountedModel, claimed: float | None) -> RunMacs:
    """What the calls of a run came to."""
    calls = counted.per_call
    return RunMacs(sum(calls) / len(calls), claimed, min(calls), max(calls))


def candidate_table(candidate: Candidate, counted: RunMacs, *, steps: int, images: int) -> pd.DataFrame:
    """`flops.csv` of a network of anyone: one row."""
    shape = candidate.config
    row = {
        "model": candidate.name,
        "input_size": shape.input_size,
        "counter": "torch",
        "convention": "matmul",
        "sampler": sampler_of(shape),
        "steps": steps,
        "images": images,
        "branches": guidance_branches(GUIDANCE),
        "parameters": sum(parameter.numel() for parameter in candidate.module.parameters()),
        "executed_gmacs": counted.executed / GIGA,
        "claimed_gmacs": None if counted.claimed is None else counted.claimed / GIGA,
        "gap": counted.gap,
        "least_gmacs": counted.least / GIGA,
        "most_gmacs": counted.most / GIGA,
    }
    rates = candidate.rates() or (None, None, None)
    return pd.DataFrame([row | dict(zip(("heads", "channels", "tokens"), rates, strict=True))])
