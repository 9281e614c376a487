from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality.metrics.arrays import Array
from bench.quality.metrics.frechet import FidReference, FidRows, fid, fid_from_statistics
from bench.quality.metrics.moments import Statistics, of_features
from dydit.errors import InputError


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.diag(np.linspace(0.2, 3.0, d)) + shift


def published(s1: Statistics, s2: Statistics) -> float:
    """The definition, with scipy's matrix root."""
    root = scipy.linalg.sqrtm(s1.covariance @ s2.covariance).real
    return float(np.sum((s1.mean - s2.mean) ** 2) + np.trace(s1.covariance + s2.covariance - 2 * root))


def torch_fidelity(s1: Statistics, s2: Statistics) -> float:
    from torch_fidelity import metric_fid

    values = metric_fid.fid_statistics_to_metric(
        *({"mu": s.mean, "sigma": s.covariance} for s in (s1, s2)), verbose=False
    )
    return float(values[metric_fid.KEY_METRIC_FID])


@pytest.mark.parametrize(("n", "d"), [(500, 16), (60, 48)])
def test_fid_agrees_with_the_matrix_root_of_scipy(n: int, d: int) -> None:
    a, b = gaussian(n, d, 0), gaussian(n + 7, d, 1, shift=0.3)
    np.testing.assert_allclose(fid(a, b), published(of_features(a), of_features(b)), rtol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(400, 400), (20, 20), (400, 20), (20, 400)])  # 20 < 32: singular covariances
def test_fid_agrees_with_torch_fidelity(n: int, m: int) -> None:
    a, b = gaussian(n, 32, 0), gaussian(m, 32, 1, shift=0.1)
    np.testing.assert_allclose(fid(a, b), torch_fidelity(of_features(a), of_features(b)), rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 60), m=st.integers(2, 60), d=st.integers(1, 24), seed=st.integers(0, 2**16))
def test_fid_agrees_with_torch_fidelity_whatever_the_ranks(n: int, m: int, d: int, seed: int) -> None:
    a, b = of_features(gaussian(n, d, seed)), of_features(gaussian(m, d, seed + 1, shift=0.5))
    np.testing.assert_allclose(FidReference(a).distance(b), torch_fidelity(a, b), rtol=1e-6)
    np.testing.assert_allclose(FidReference(a).distance(b), FidReference(b).distance(a), rtol=1e-6)


@pytest.mark.parametrize(("n", "m"), [(25, 25), (25, 300), (300, 25), (96, 97), (300, 300)])
def test_fid_of_features_like_an_extractor_s(n: int, m: int) -> None:
    """Cut at zero, of variances over six orders of magnitude, of fewer images than dimensions and of more."""
    rng = np.random.default_rng(0)
    mixing = np.geomspace(1.0, 1e-3, 96)[:, None] * np.linalg.qr(rng.normal(size=(96, 96)))[0]
    a, b = (of_features((rng.normal(size=(count, 96)) @ mixing + 0.02).clip(min=0.0)) for count in (n, m))
    np.testing.assert_allclose(FidReference(a).distance(b), torch_fidelity(a, b), rtol=1e-6)
    np.testing.assert_allclose(FidReference(b).distance(a), torch_fidelity(a, b), rtol=1e-6)


@pytest.mark.parametrize("dead", [1, 30])
def test_dimensions_without_variance_change_nothing(dead: int) -> None:
    """Features of a ReLU that never fires: the Cholesky factor does not exist."""
    a, b = gaussian(300, 12, 0), gaussian(200, 12, 1, shift=0.2)
    padded = [np.pad(x, ((0, 0), (dead, 0))) for x in (a, b)]
    np.testing.assert_allclose(fid(*padded), fid(a, b), rtol=1e-10)
    nearly = padded[0].copy()
    nearly[:, 0] = 1e-9 * np.random.default_rng(2).normal(size=300)  # rounding beside the others, not zero
    np.testing.assert_allclose(fid(nearly, padded[1]), fid(a, b), rtol=1e-7)


def test_fid_of_diagonal_gaussians_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    s1, s2, mu = rng.uniform(0.1, 2.0, size=(3, 12))
    expected = np.sum(mu**2) + np.sum((np.sqrt(s1) - np.sqrt(s2)) ** 2)
    np.testing.assert_allclose(fid_from_statistics(np.zeros(12), np.diag(s1), mu, np.diag(s2)), expected, rtol=1e-12)


def test_fid_is_symmetric_zero_on_itself_and_grows_with_the_shift() -> None:
    a, b = gaussian(300, 16, 0), gaussian(250, 16, 1)
    np.testing.assert_allclose(fid(a, b), fid(b, a), rtol=1e-10)
    assert 0 <= fid(a, a) < 1e-10
    singular = gaussian(10, 16, 0)
    assert 0 <= fid(singular, singular) < 1e-10
    distances = [fid(a, b + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert distances == sorted(distances)
    np.testing.assert_allclose(fid(a, a + 2.0), 16 * 4.0, rtol=1e-9)


def test_fid_of_one_dimension_and_of_points() -> None:
    a = np.array([[0.0], [2.0]])  # variance 2
    b = np.array([[0.0], [4.0]])  # variance 8
    np.testing.assert_allclose(fid(a, b), 1.0 + (8**0.5 - 2**0.5) ** 2, rtol=1e-12)
    point = np.ones((3, 1))  # variance 0
    np.testing.assert_allclose(fid(point, b), 1.0 + 8.0, rtol=1e-12)
    np.testing.assert_allclose(fid(b, point), 1.0 + 8.0, rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 40), d=st.integers(1, 20), m=st.sampled_from([3, 200]), seed=st.integers(0, 2**16))
def test_counted_rows_are_the_set_written_out(n: int, d: int, m: int, seed: int) -> None:
    """More rows than dimensions and fewer, a reference of full rank and a singular one."""
    reference = FidReference(of_features(gaussian(m, d, seed, shift=10.0)))
    features = gaussian(n, d, seed + 1, shift=11.0)
    counts = np.bincount(np.random.default_rng(seed).integers(n, size=n), minlength=n)
    written_out = of_features(np.repeat(features, counts, axis=0))
    np.testing.assert_allclose(
        FidRows(reference, features).distance(counts), reference.distance(written_out), rtol=1e-6, atol=1e-6
    )


def test_unusable_features_are_refused() -> None:
    good, bad = gaussian(10, 4, 0), gaussian(10, 4, 1)
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        fid(good, bad)
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        fid(good, good[:, :3])
    with pytest.raises(InputError, match="expected 2 dimension"):
        fid(good, good[0])
    with pytest.raises(InputError, match="10 and 1 images; it needs at least 2"):
        fid(good, good[:1])
    with pytest.raises(InputError, match="one dimension D"):
        fid_from_statistics(good[0], np.eye(4), good[0], np.eye(3))
    reference = FidReference(of_features(good))
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        reference.distance(of_features(good[:, :3]))
    with pytest.raises(InputError, match="3 and 4 dimensions"):
        FidRows(reference, good[:, :3])
    with pytest.raises(InputError, match="NaN"):
        FidRows(reference, bad)


def test_arrays_and_tensors_are_one() -> None:
    a, b = gaussian(30, 4, 0), gaussian(30, 4, 1)
    assert fid(torch.from_numpy(a), b.tolist()) == fid(a, b)  # type: ignore[arg-type]
