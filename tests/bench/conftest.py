from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants, file_download
from PIL import Image
from threadpoolctl import threadpool_limits

from bench.machine.threads import cpu_threads
from bench.quality.features import extractors, inception
from bench.quality.metrics import moments
from bench.quality.metrics.moments import Statistics
from bench.quality.references.build import evenly_spaced
from bench.quality.references.reference import KEPT_ROWS, Reference
from bench.records import checksums
from bench.reproduction import rate


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small images gain nothing from threads that wait for each other on a busy machine."""
    with cpu_threads(1), threadpool_limits(1):  # torch's, and numpy's own
        yield


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> extractors.Weights:
    """Random weights of InceptionV3 (95 MB), accepted by their own checksum."""
    path: Path = tmp_path_factory.mktemp("inception") / "inception.pth"
    inception.write_random_weights(path)
    return extractors.extractor("inception-v3-compat").weights(path, checksums.file_sha256(path))


@pytest.fixture(scope="session")
def save_vae() -> Callable[..., Path]:
    """(path, levels, changed settings) -> the path, where a small random autoencoder is saved."""

    def save(path: Path, levels: int = 2, **changes: Any) -> Path:
        from diffusers import AutoencoderKL

        settings: dict[str, Any] = {
            "block_out_channels": (*(4,) * (levels - 1), 8),
            "norm_num_groups": 2,
            "layers_per_block": 1,
            "latent_channels": 4,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoencoderKL(**{**settings, **changes}).save_pretrained(path)
        return path

    return save


@pytest.fixture
def random_pictures() -> Callable[..., list[Image.Image]]:
    """Pictures of random pixels: (count, height, width, seed) -> RGB."""

    def draw(count: int, height: int, width: int, seed: int = 0) -> list[Image.Image]:
        array = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        return [Image.fromarray(picture) for picture in array]

    return draw


@pytest.fixture
def stacked() -> Callable[[Iterable[torch.Tensor]], np.ndarray]:
    """All images of a set as (N, H, W, 3)."""
    return lambda opened: torch.stack(list(opened)).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="session")
def made_up() -> Callable[..., Reference]:
    """(n, seed, d) -> statistics of n random rows, all of which are kept up to `reference.KEPT_ROWS`."""

    def make(n: int, seed: int = 0, d: int = 5) -> Reference:
        rows = np.random.default_rng(seed).normal(3.0, 2.0, (n, d))
        record = {"dataset": "digits", "split": "all", "preprocessing": "native", "weights_sha256": "0" * 64}
        kept = rows[evenly_spaced(n, min(n, KEPT_ROWS))].astype(np.float32)
        pool, spatial = moments.of_features(rows), moments.of_features(rows[:, :3])
        return Reference("rows", "digits-cnn", (8, 8), pool, spatial, kept, None, record)

    return make


@pytest.fixture(scope="session")
def close() -> Callable[[Statistics, Statistics, float], None]:
    """Both are of as many rows, and agree to `rtol` of the largest entry."""

    def check(one: Statistics, other: Statistics, rtol: float) -> None:
        assert one.count == other.count
        for key in ("mean", "covariance"):
            wanted = getattr(other, key)
            np.testing.assert_allclose(getattr(one, key), wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())

    return check


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches in the test's folder, and a network that fails the test when it is asked."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan went to the network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr(file_download, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(rate, "MEASURED_STEPS", 2)
    monkeypatch.setattr(rate, "BUDGET", rate.Budget(seconds=0.0, least=1, most=1, warmup=0))
