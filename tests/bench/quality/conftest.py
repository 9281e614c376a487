from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.data.image_set import Images


@pytest.fixture
def by_torch_fidelity() -> Callable[..., dict[str, float]]:
    """(samples, reference, extractor, weights, more options) -> torch-fidelity's metrics by its own extraction."""

    def measure(samples: Images, reference: Images, extractor: str, weights: Path, **options: Any) -> dict[str, float]:
        import torch_fidelity

        with torch.random.fork_rng(devices=[]):
            measured: dict[str, float] = torch_fidelity.calculate_metrics(
                input1=samples,
                input2=reference,
                feature_extractor=extractor,
                feature_extractor_weights_path=str(weights),
                isc=True,
                samples_shuffle=False,
                kid=True,
                prc=True,
                prc_neighborhood=3,
                rng_seed=0,
                batch_size=32,
                cuda=False,
                save_cpu_ram=True,
                cache=False,
                verbose=False,
                **options,
            )
        return measured

    return measure
