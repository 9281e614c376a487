from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality.metrics.arrays import Array
from bench.quality.metrics.inception_score import ScoreMoments, inception_score
from dydit.errors import InputError


def probs(n: int, classes: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), size=n)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 80), split=st.integers(1, 90), cuts=st.lists(st.integers(0, 80), max_size=6))
def test_the_score_does_not_know_the_batches(n: int, split: int, cuts: list[int]) -> None:
    p = probs(n, 4)
    stream = ScoreMoments(4, split)
    for batch in np.split(p, sorted(cuts)):
        stream.update(batch)
    expected = []
    for part in (p[start : start + split] for start in range(0, n, split)):
        expected.append(np.exp(np.mean(np.sum(part * np.log(part / part.mean(axis=0)), axis=1))))
    np.testing.assert_allclose(stream.score(), (np.mean(expected), np.std(expected)), rtol=1e-10, atol=1e-12)


def test_the_score_can_be_read_on_the_way() -> None:
    p = probs(30, 4)
    stream = ScoreMoments(4, 12)
    for start, end in ((0, 5), (5, 12), (12, 30)):
        stream.update(p[start:end])
        assert stream.score() == pytest.approx(inception_score(p[:end], 12), abs=1e-12)


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
    stream = ScoreMoments(3, 4)
    stream.update(np.eye(3))
    with pytest.raises(InputError, match="apply softmax"):
        stream.update(np.ones((4, 3)))
    with pytest.raises(InputError, match="apply softmax"):
        stream.update([[1.5, -0.5, 0.0]])
    with pytest.raises(InputError, match="rows of 2 and 3 classes"):
        stream.update(np.eye(2))
    with pytest.raises(InputError, match="NaN"):
        stream.update([[np.nan, 0.5, 0.5]])
    assert stream.score() == pytest.approx((3.0, 0.0))
    with pytest.raises(InputError, match="0 rows"):
        ScoreMoments(3, 4).score()
    with pytest.raises(InputError, match="splits of 0"):
        ScoreMoments(3, 0)


def test_unusable_probabilities_in_memory_are_refused() -> None:
    with pytest.raises(InputError, match="apply softmax"):
        inception_score(np.ones((4, 3)), 2)
    with pytest.raises(InputError, match="apply softmax"):
        inception_score([[1.5, -0.5]], 1)
    with pytest.raises(InputError, match="splits of 0"):
        inception_score(np.eye(2), 0)
    with pytest.raises(InputError, match="0 rows"):
        inception_score(np.empty((0, 3)), 2)
