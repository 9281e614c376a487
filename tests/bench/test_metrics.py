from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from bench import metrics
from dydit.errors import InputError

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("metrics_*.npz"))


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> metrics.Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.diag(np.linspace(0.2, 3.0, d)) + shift


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_values(path: Path) -> None:
    with np.load(path) as golden:
        meta = json.loads(str(golden["meta"]))
        ref, gen = golden["ref_features"], golden["gen_features"]
        np.testing.assert_allclose(metrics.fid(ref, gen), golden["fid"], rtol=1e-6)
        score, _ = metrics.inception_score(golden["probs"], meta["is_split_size"])
        np.testing.assert_allclose(score, golden["inception_score"], rtol=1e-6)
        assert metrics.precision_recall(ref, gen, meta["prc_k"]) == (golden["precision"], golden["recall"])


def test_there_is_a_golden_file() -> None:
    assert GOLDEN


@pytest.mark.parametrize(("n", "d"), [(500, 16), (60, 48)])
def test_fid_agrees_with_the_matrix_root_of_scipy(n: int, d: int) -> None:
    a, b = gaussian(n, d, 0), gaussian(n + 7, d, 1, shift=0.3)
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    published = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s1 + s2 - 2 * root)
    np.testing.assert_allclose(metrics.fid(a, b), published, rtol=1e-9)


@pytest.mark.parametrize("n", [400, 20])  # 20 < 32 dimensions: singular covariances
def test_fid_agrees_with_torch_fidelity(n: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = gaussian(n, 32, 0), gaussian(n, 32, 1, shift=0.1)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)), verbose=False
    )["frechet_inception_distance"]
    np.testing.assert_allclose(metrics.fid(a, b), theirs, rtol=1e-6)


def test_fid_of_diagonal_gaussians_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    s1, s2, mu = rng.uniform(0.1, 2.0, size=(3, 12))
    expected = np.sum(mu**2) + np.sum((np.sqrt(s1) - np.sqrt(s2)) ** 2)
    np.testing.assert_allclose(
        metrics.fid_from_statistics(np.zeros(12), np.diag(s1), mu, np.diag(s2)), expected, rtol=1e-12
    )


def test_fid_is_symmetric_zero_on_itself_and_grows_with_the_shift() -> None:
    a, b = gaussian(300, 16, 0), gaussian(250, 16, 1)
    np.testing.assert_allclose(metrics.fid(a, b), metrics.fid(b, a), rtol=1e-10)
    assert 0 <= metrics.fid(a, a) < 1e-10
    singular = gaussian(10, 16, 0)
    assert 0 <= metrics.fid(singular, singular) < 1e-10
    distances = [metrics.fid(a, b + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert distances == sorted(distances)
    np.testing.assert_allclose(metrics.fid(a, a + 2.0), 16 * 4.0, rtol=1e-9)


def test_fid_of_one_dimension() -> None:
    a = np.array([[0.0], [2.0]])  # variance 2
    b = np.array([[0.0], [4.0]])  # variance 8
    np.testing.assert_allclose(metrics.fid(a, b), 1.0 + (8**0.5 - 2**0.5) ** 2, rtol=1e-12)


def test_fid_interval_contains_its_fid_narrows_with_n_and_repeats() -> None:
    ref = gaussian(2000, 8, 0)
    widths = []
    for n in (100, 1600):
        gen = gaussian(n, 8, 1, shift=0.5)
        low, high = metrics.bootstrap_fid(gen, ref, seed=3)
        assert low < metrics.fid(gen, ref) < high
        assert (low, high) == metrics.bootstrap_fid(gen, ref, seed=3) != metrics.bootstrap_fid(gen, ref, seed=4)
        widths.append(high - low)
    assert 2.0 < widths[0] / widths[1] < 8.0  # about sqrt(16)


def test_fid_interval_has_the_spread_of_repeated_generation() -> None:
    ref = gaussian(2000, 8, 0)
    repeated = [metrics.fid(gaussian(400, 8, seed, shift=0.5), ref) for seed in range(1, 61)]
    widths = [np.subtract(*metrics.bootstrap_fid(gaussian(400, 8, s, shift=0.5), ref)[::-1]) for s in range(1, 6)]
    assert 0.6 < np.mean(widths) / (2 * 1.96 * np.std(repeated)) < 1.5


def test_inception_score_in_closed_form() -> None:
    certain = np.eye(10)[np.arange(100) % 10]  # zeros included
    assert metrics.inception_score(certain, 50) == pytest.approx((10.0, 0.0))
    assert metrics.inception_score(np.full((30, 10), 0.1), 10) == pytest.approx((1.0, 0.0))
    # In sample order: the first split has one class, the second two.
    ordered = np.eye(2)[[0, 0, 0, 0, 0, 1, 0, 1]]
    assert metrics.inception_score(ordered, 4) == pytest.approx((1.5, 0.5))
    # A shorter last split counts like the others.
    assert metrics.inception_score(ordered[:6], 4) == pytest.approx((1.5, 0.5))


def test_inception_score_agrees_with_torch_fidelity() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.randn(300, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    theirs = isc_features_to_metric(logits, splits=6, shuffle=False)
    ours = metrics.inception_score(logits.softmax(1).numpy(), 50)
    np.testing.assert_allclose(ours, list(theirs.values()), rtol=1e-12)


def brute_force(ref: metrics.Array, gen: metrics.Array, k: int) -> tuple[float, float]:
    def share(points: metrics.Array, manifold: metrics.Array) -> float:
        radii = [sorted(np.linalg.norm(manifold - m, axis=1))[k] for m in manifold]
        return float(np.mean([(np.linalg.norm(manifold - p, axis=1) <= radii).any() for p in points]))

    return share(gen, ref), share(ref, gen)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("rows", [7, 1024])
def test_precision_and_recall_by_definition(k: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "ROWS", rows)
    ref, gen = gaussian(90, 5, 0), gaussian(70, 5, 1, shift=0.4)
    expected = brute_force(ref, gen, k)
    assert metrics.precision_recall(ref, gen, k) == expected
    assert 0.0 < expected[0] < 1.0 and 0.0 < expected[1] < 1.0 and expected[0] != expected[1]
    assert metrics.precision_recall(ref + 1e6, gen + 1e6, k) == expected  # a common offset changes nothing


def test_precision_and_recall_agree_with_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    ref, gen = gaussian(400, 12, 0), gaussian(300, 12, 1, shift=0.8)
    theirs = prc_features_to_metric(torch.from_numpy(gen), torch.from_numpy(ref), verbose=False)
    ours = metrics.precision_recall(ref, gen)
    np.testing.assert_allclose(ours, (theirs["precision"], theirs["recall"]), rtol=0, atol=1e-6)
    assert ours[0] < 0.9 and ours[0] != ours[1]


def test_precision_and_recall_on_made_up_clusters() -> None:
    cluster = gaussian(80, 6, 0)
    assert metrics.precision_recall(cluster, cluster) == (1.0, 1.0)
    assert metrics.precision_recall(cluster, cluster + 100.0) == (0.0, 0.0)
    two = np.concatenate([cluster, gaussian(80, 6, 1) + 100.0])
    assert metrics.precision_recall(two, cluster) == (1.0, 0.5)  # one of two modes: precise, half covered
    assert metrics.precision_recall(cluster, two) == (0.5, 1.0)


def test_a_collapsed_set_covers_only_its_own_image() -> None:
    ref = gaussian(80, 6, 0)
    collapsed = np.repeat(ref[3:4], 50, axis=0)  # balls of radius zero: equality must survive the rounding
    assert metrics.precision_recall(ref, collapsed) == (1.0, 1 / 80)


def test_unusable_features_are_refused() -> None:
    good, bad = gaussian(10, 4, 0), gaussian(10, 4, 1)
    bad[2, 1] = np.nan
    for measure in (metrics.fid, metrics.precision_recall, metrics.bootstrap_fid):
        with pytest.raises(InputError, match="NaN or infinite"):
            measure(good, bad)
        with pytest.raises(InputError, match="4 and 3 dimensions"):
            measure(good, good[:, :3])
        with pytest.raises(InputError, match="expected 2 dimension"):
            measure(good, good[0])
        with pytest.raises(InputError, match="at least"):
            measure(good, good[:1])
    with pytest.raises(InputError, match="3 images; it needs at least 4"):
        metrics.precision_recall(good, good[:3])
    with pytest.raises(InputError, match="k = 0"):
        metrics.precision_recall(good, good, k=0)
    with pytest.raises(InputError, match="one dimension D"):
        metrics.fid_from_statistics(good[0], np.eye(4), good[0], np.eye(3))
    with pytest.raises(InputError, match="1 resamples"):
        metrics.bootstrap_fid(good, good, resamples=1)


def test_unusable_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match="apply softmax"):
        metrics.inception_score(np.ones((4, 3)), 2)
    with pytest.raises(InputError, match="apply softmax"):
        metrics.inception_score([[1.5, -0.5]], 1)
    with pytest.raises(InputError, match="splits of 0"):
        metrics.inception_score(np.eye(2), 0)
    with pytest.raises(InputError, match="0 rows"):
        metrics.inception_score(np.empty((0, 3)), 2)
