"""Timed: feature extraction by this suite and by torch-fidelity's own loop, with one network and one batch size.

`extra_info` holds images/s and, from rounds in turns, how many times faster this suite is, with a 95 % interval; of
the forward alone `matmul_share`, its multiply-adds per second over those of a large dense product. InceptionV3 has
random weights: the time does not depend on them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.data import image_set
from bench.data.image_set import Images
from bench.machine import Budget, dense_product, in_turns, speedup
from bench.quality.features import extraction, extractors, inception
from bench.records import file_sha256

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COUNTS = {"digits-cnn": 4096, "inception-v3-compat": 4096 if DEVICE.type == "cuda" else 32}
BATCHES = {"digits-cnn": 64, "inception-v3-compat": 64 if DEVICE.type == "cuda" else 16}


@pytest.fixture(scope="module", params=list(COUNTS))
def timed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ...]]:
    """Extractor, network with the layers of FID, sFID and the Inception Score, images of noise."""
    spec = extractors.extractor(request.param)
    layers = [*spec.statistics_layers, *([spec.logits_layer] if spec.logits_layer else [])]
    weights = None
    if spec.name == inception.NAME:
        path: Path = tmp_path_factory.mktemp("weights") / "inception.pth"
        inception.write_random_weights(path)
        weights = spec.weights(path, file_sha256(path))
    side = spec.image_size or 64
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNTS[spec.name], 3, side, side), dtype=torch.uint8, generator=generator)
    network = extraction.open_network(spec.name, weights, layers, DEVICE)
    yield spec, layers, network, image_set.of_tensor(pixels, "noise")


def ours(network: nn.Module, source: Images, layers: list[str], batch: int) -> dict[str, np.ndarray[Any, Any]]:
    batches = list(extraction.run_network(network, source, layers, batch))
    return {layer: np.concatenate([values[layer] for values in batches]) for layer in layers}


def theirs(network: nn.Module, source: Images, layers: list[str], batch: int) -> dict[str, torch.Tensor]:
    from torch_fidelity.utils import get_featuresdict_from_dataset

    on_gpu = DEVICE.type == "cuda"
    # `save_cpu_ram` means no processes that read images; the default, four, helps a GPU only.
    found: dict[str, torch.Tensor] = get_featuresdict_from_dataset(
        source, network, batch, on_gpu, save_cpu_ram=not on_gpu, verbose=False
    )
    return found


@pytest.mark.parametrize("by", ["this suite", "torch-fidelity"])
def test_extraction(benchmark: Any, timed: Any, by: str) -> None:
    spec, layers, network, source = timed
    batch = BATCHES[spec.name]
    calls: dict[str, Callable[[], dict[str, Any]]] = {
        "this suite": lambda: ours(network, source, layers, batch),
        "torch-fidelity": lambda: theirs(network, source, layers, batch),
    }
    benchmark.group = f"features of {spec.name}, batch {batch}"
    found = benchmark.pedantic(calls[by], rounds=3, warmup_rounds=1)
    assert {layer: values.shape for layer, values in found.items()} == {
        layer: (len(source), spec.dimensions[layer]) for layer in layers
    }
    if benchmark.disabled:
        return
    benchmark.extra_info.update(images=len(source), images_per_s=len(source) / benchmark.stats.stats.median)
    if by == "this suite":
        for layer, values in calls["torch-fidelity"]().items():
            np.testing.assert_allclose(found[layer], np.asarray(values), rtol=1e-4, atol=1e-4)
        rounds = in_turns(calls, Budget(seconds=20, least=5), DEVICE, f"features of {spec.name}")
        benchmark.extra_info["speedup_over_torch_fidelity"] = speedup(rounds["torch-fidelity"], rounds["this suite"])


def multiply_adds(network: nn.Module, images: torch.Tensor) -> float:
    """Of all convolutions and matrix products in one forward of images (N, 3, H, W), counted by torch without them."""
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).to("meta")(images.to("meta"))
    return float(counter.get_total_flops()) / 2


def test_forward(benchmark: Any, timed: Any) -> None:
    """The network alone, without a loop around it: how near it comes to the device's matrix products."""
    spec, _, network, source = timed
    images = torch.stack([source[index] for index in range(BATCHES[spec.name])]).to(DEVICE)
    with torch.inference_mode():
        benchmark.group = f"forward of {spec.name}, batch {len(images)}"
        benchmark.pedantic(network, (images,), rounds=3, warmup_rounds=1)
        work = multiply_adds(network, images)
        if spec.name == inception.NAME:  # of 299 x 299 pixels, whatever the size of the images
            assert work / len(images) == pytest.approx(5.71e9, rel=0.01)
        if benchmark.disabled:
            return
        product, product_macs = dense_product(DEVICE, torch.float32)
        calls = {"forward": lambda: network(images), "dense product": product}
        rounds = in_turns(calls, Budget(seconds=30, least=5), DEVICE, f"forward of {spec.name}")
    ratio, low, high = speedup(rounds["dense product"], rounds["forward"])
    share = [work / product_macs * each for each in (ratio, low, high)]
    benchmark.extra_info.update(macs_per_image=work / len(images), matmul_share=share)
