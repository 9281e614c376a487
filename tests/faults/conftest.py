"""The harness of faults, and what it found: for the tests, and for docs/reliability.md where all faults were tried."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WHOLE = os.environ.get("DYDIT_FAULTS") == "whole"
"""Whether all faults are tried and the page is written, as `nox -s faults` does, or a few in every run of the tests."""


@pytest.fixture(scope="session")
def imported() -> list[str]:
    """What the commands import, so that no process does it for itself."""
    return [
        "diffusers.models.autoencoders.autoencoder_kl",
        "bench.cli",
        *(f"bench.{room}" for room in ("comparison.run", "flops.run", "latency.run", "quality.job", "studies.run")),
        *(f"bench.{room}" for room in ("reproduction.reproduce", "routing.measure", "training.finetune")),
        "fvcore.nn",
        "matplotlib.figure",
        "scipy.linalg",
        "sklearn.datasets",
        "torch_fidelity",
        "torchvision.utils",
    ]


@pytest.fixture(scope="session")
def harness(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs commands with faults."""
    from fault_harness import Harness

    return Harness(start, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def outcomes() -> Iterator[list[Any]]:
    """Of all faults that were tried; at the end the page is written of them, if they are all that there are."""
    from fault_page import write_page

    tried: list[Any] = []
    yield tried
    if WHOLE:
        write_page(tried, Path(__file__).parents[2] / "docs" / "reliability.md")
