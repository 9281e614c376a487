from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from bench.flops.counters import fvcore_count, torch_count
from bench.flops.counts import meta_inputs
from dydit import MODEL_NAMES, DiT, macs, model_config
from dydit.flops import DYDIT_PAPER

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


pytestmark = pytest.mark.benchmark(group="flops counting")
NAME = "DiT-S/2"


@pytest.fixture(scope="module")
def network() -> DiT:
    with torch.device("meta"):
        return DiT(**model_config(NAME).kwargs()).eval()


def test_closed_form_of_all_models(benchmark: BenchmarkFixture) -> None:
    configs = {name: model_config(name) for name in MODEL_NAMES}

    def totals() -> dict[str, float]:
        return {
            name: macs(config, dynamic=name.startswith("Dy")).total(DYDIT_PAPER) for name, config in configs.items()
        }

    counted = benchmark(totals)
    benchmark.extra_info["models"] = len(configs)
    benchmark.extra_info["gmacs"] = counted[NAME] / 1e9


def test_fvcore_count(benchmark: BenchmarkFixture, network: DiT) -> None:
    count = benchmark(fvcore_count, network, meta_inputs(network.config))
    benchmark.extra_info.update(model=NAME, gmacs=count.total / 1e9, device="meta")


def test_torch_count(benchmark: BenchmarkFixture, network: DiT) -> None:
    count = benchmark(torch_count, network, meta_inputs(network.config))
    benchmark.extra_info.update(model=NAME, gmacs=count.total / 1e9, device="meta")
