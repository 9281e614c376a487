from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench.quality import metrics
from bench.quality.metrics.frechet import fid
from bench.quality.metrics.inception_score import inception_score
from bench.quality.metrics.precision_recall import precision_recall

GOLDEN = sorted((Path(__file__).parents[3] / "golden").glob("metrics_*.npz"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_values(path: Path) -> None:
    with np.load(path) as golden:
        meta = json.loads(str(golden["meta"]))
        ref, gen = golden["ref_features"], golden["gen_features"]
        np.testing.assert_allclose(fid(ref, gen), golden["fid"], rtol=1e-6)
        score, _ = inception_score(golden["probs"], meta["is_split_size"])
        np.testing.assert_allclose(score, golden["inception_score"], rtol=1e-6)
        assert precision_recall(ref, gen, meta["prc_k"]) == (golden["precision"], golden["recall"])


def test_there_is_a_golden_file() -> None:
    assert GOLDEN


def test_every_name_is_described() -> None:
    assert metrics.__doc__ is not None
    described = re.findall(r"`(\w+)\.(\w+)`", metrics.__doc__)
    assert {module for module, _ in described} >= {"frechet", "inception_score", "intervals", "kid", "precision_recall"}
    for module, name in described:
        assert callable(getattr(importlib.import_module(f"bench.quality.metrics.{module}"), name))
