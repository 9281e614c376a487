from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.quality import metrics
from bench.quality.metrics.frechet import fid
from bench.quality.metrics.inception_score import inception_score
from bench.quality.metrics.precision_recall import precision_recall
from dydit.errors import InputError

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


def test_inception_score_in_closed_form() -> None:
    certain = np.eye(10)[np.arange(100) % 10]  # zeros included
    assert inception_score(certain, 50) == pytest.approx((10.0, 0.0))
    assert inception_score(np.full((30, 10), 0.1), 10) == pytest.approx((1.0, 0.0))
    # In sample order: the first split has one class, the second two.
    ordered = np.eye(2)[[0, 0, 0, 0, 0, 1, 0, 1]]
    assert inception_score(ordered, 4) == pytest.approx((1.5, 0.5))
    # A shorter last split counts like the others.
    assert inception_score(ordered[:6], 4) == pytest.approx((1.5, 0.5))


def test_inception_score_agrees_with_torch_fidelity() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.randn(300, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    theirs = isc_features_to_metric(logits, splits=6, shuffle=False)
    ours = inception_score(logits.softmax(1).numpy(), 50)
    np.testing.assert_allclose(ours, list(theirs.values()), rtol=1e-12)


def test_unusable_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match="apply softmax"):
        inception_score(np.ones((4, 3)), 2)
    with pytest.raises(InputError, match="apply softmax"):
        inception_score([[1.5, -0.5]], 1)
    with pytest.raises(InputError, match="splits of 0"):
        inception_score(np.eye(2), 0)
    with pytest.raises(InputError, match="0 rows"):
        inception_score(np.empty((0, 3)), 2)
