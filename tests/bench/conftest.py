from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

from bench import features, inception


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small images gain nothing from threads that wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):  # numpy's own
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> features.Weights:
    """Random weights of InceptionV3 (95 MB), accepted by their own checksum."""
    path: Path = tmp_path_factory.mktemp("inception") / "inception.pth"
    inception.write_random_weights(path)
    return features.extractor("inception-v3-compat").weights(path, features.file_sha256(path))
