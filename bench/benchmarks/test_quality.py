"""Timed: FID, IS and KID of picture files beside torch-fidelity's, statistics of features, precision and recall.

Sizes are those of InceptionV3's pool features; where nothing is timed (`--benchmark-disable`) they shrink.
Set DYDIT_BENCH_LARGE=1 for precision and recall at D = 2048, which takes minutes, and for 2,000 and 20,000 pictures,
which take hours on a CPU.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.sources import open_images
from bench.quality.features import extractor, inception
from bench.quality.measure import measure_quality
from bench.quality.metrics.arrays import Array
from bench.quality.metrics.frechet import FidReference, FidRows, fid_from_statistics
from bench.quality.metrics.kid import kid
from bench.quality.metrics.moments import Moments, Statistics, of_features
from bench.quality.metrics.precision_recall import precision_recall
from bench.records import file_sha256

POOL = 2048
LARGE = pytest.mark.skipif("DYDIT_BENCH_LARGE" not in os.environ, reason="minutes long; DYDIT_BENCH_LARGE=1 runs it")


def features(n: int, d: int, seed: int) -> Array:
    """Rows (n, d) with variances that fall like those of pool features, over six orders of magnitude."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.geomspace(1.0, 1e-3, d) + 0.1 * seed


@functools.cache
def gaussian(d: int, seed: int) -> Statistics:
    """Mean and covariance (d, d) of full rank, with every pair of dimensions correlated."""
    return of_features(features(2 * d, d, seed) @ np.linalg.qr(features(d, d, 7))[0])


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of InceptionV3: the time does not depend on them."""
    path: Path = tmp_path_factory.mktemp("weights") / "inception.pth"
    inception.write_random_weights(path)
    return path


def pictures(folder: Path, count: int, side: int, seed: int) -> Path:
    """PNG files of smooth random colours with some noise, which compress as photographs do."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        smooth = Image.fromarray(rng.integers(0, 256 - 32 * seed, (8, 8, 3), dtype=np.uint8)).resize((side, side))
        noise = rng.integers(0, 8, (side, side, 3), dtype=np.uint8)
        Image.fromarray(np.asarray(smooth) // 2 + noise).save(folder / f"{number:06}.png")
    return folder


def peak_mib(call: Callable[[], object]) -> float | None:
    """Largest resident memory of this process during a call, in MiB; None where Linux does not count it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        call()
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


@pytest.mark.parametrize("count", [260, pytest.param(2000, marks=LARGE), pytest.param(20_000, marks=LARGE)])
@pytest.mark.parametrize("by", ["this suite", "torch-fidelity"])
def test_scores_of_picture_files(benchmark: Any, inception_file: Path, tmp_path: Path, by: str, count: int) -> None:
    """The same files and weights on both sides, from pictures to FID, IS and KID, which are equal to 1e-4."""
    count, side = (20, 32) if benchmark.disabled else (count, 256)
    made, real = (pictures(tmp_path / name, count, side, seed) for seed, name in enumerate(("made", "real")))
    benchmark.group = f"FID, IS and KID of {count} pictures against as many, InceptionV3"
    digest = file_sha256(inception_file)

    def ours() -> dict[str, float]:
        weights = extractor(inception.NAME).weights(inception_file, digest)
        images = (open_images(str(folder)) for folder in (made, real))
        found = measure_quality(
            *images, extractor=inception.NAME, weights=weights, metrics=("FID", "IS", "KID"), resamples=0
        )
        return {metric: found[metric].value for metric in ("FID", "IS", "KID")}

    def theirs() -> dict[str, float]:
        import torch_fidelity

        found = torch_fidelity.calculate_metrics(
            input1=str(made),
            input2=str(real),
            feature_extractor=inception.NAME,
            feature_extractor_weights_path=str(inception_file),
            isc=True,
            isc_splits=count // 5000 if count >= 5000 else 10,
            samples_shuffle=False,
            fid=True,
            kid=True,
            kid_subset_size=min(count, 1000),
            rng_seed=0,
            cuda=torch.cuda.is_available(),
            save_cpu_ram=not torch.cuda.is_available(),
            cache=False,
            verbose=False,
        )
        keys = ("frechet_inception_distance", "inception_score_mean", "kernel_inception_distance_mean")
        return dict(zip(("FID", "IS", "KID"), (found[key] for key in keys), strict=True))

    calls = {"this suite": ours, "torch-fidelity": theirs}
    found = benchmark.pedantic(calls[by], rounds=1 if count > 260 else 3)
    if by == "this suite":
        for metric, value in theirs().items():
            # KID is a small difference of kernels near 1; their float32 features round it.
            np.testing.assert_allclose(found[metric], value, rtol=1e-4, atol=1e-6, err_msg=metric)
    if not benchmark.disabled:
        rate = 2 * count / benchmark.stats.stats.median
        benchmark.extra_info.update(found, images=2 * count, images_per_s=rate, peak_mib=peak_mib(calls[by]))


@pytest.mark.parametrize("batch", [64, 1024])
def test_statistics(benchmark: Any, batch: int) -> None:
    """Moments of float32 features in batches."""
    d = 256 if benchmark.disabled else POOL
    benchmark.group = "statistics, D = 2048"
    rows = features(4096, d, 0).astype(np.float32)

    def accumulate() -> Moments:
        moments = Moments(d)
        for start in range(0, len(rows), batch):
            moments.update(rows[start : start + batch])
        return moments

    assert benchmark.pedantic(accumulate, rounds=5, warmup_rounds=1).count == len(rows)
    if not benchmark.disabled:
        benchmark.extra_info.update(batch=batch, rows_per_s=len(rows) / benchmark.stats.stats.median)


def test_fid_from_statistics(benchmark: Any) -> None:
    """Both sides given: the reference is factorised each time."""
    benchmark.group = "FID from statistics, D = 2048"
    first, second = (gaussian(128 if benchmark.disabled else POOL, seed) for seed in (0, 1))
    arguments = (first.mean, first.covariance, second.mean, second.covariance)
    value = benchmark.pedantic(fid_from_statistics, arguments, rounds=5, warmup_rounds=1)
    benchmark.extra_info["fid"] = value


def test_fid_from_statistics_by_torch_fidelity(benchmark: Any) -> None:
    from torch_fidelity import metric_fid

    benchmark.group = "FID from statistics, D = 2048"
    first, second = (gaussian(128 if benchmark.disabled else POOL, seed) for seed in (0, 1))
    arguments = [{"mu": side.mean, "sigma": side.covariance} for side in (first, second)]
    theirs = benchmark.pedantic(metric_fid.fid_statistics_to_metric, (*arguments, False), rounds=3)
    value = theirs[metric_fid.KEY_METRIC_FID]
    benchmark.extra_info["fid"] = value
    np.testing.assert_allclose(FidReference(first).distance(second), value, rtol=1e-6)


def test_fid_to_a_factorised_reference(benchmark: Any) -> None:
    benchmark.group = "FID from statistics, D = 2048"
    first, second = (gaussian(128 if benchmark.disabled else POOL, seed) for seed in (0, 1))
    reference = FidReference(first)
    assert benchmark.pedantic(reference.distance, (second,), rounds=5, warmup_rounds=1) > 0.0


def test_fid_resample(benchmark: Any) -> None:
    """One of the resamples of `bootstrap_fid` on 10,000 rows."""
    n, d = (300, 64) if benchmark.disabled else (10_000, POOL)
    benchmark.group = "FID of one resample of 10,000 rows, D = 2048"
    rows = FidRows(FidReference(gaussian(d, 0)), features(n, d, 1))
    counts = np.bincount(np.random.default_rng(0).integers(n, size=n), minlength=n)
    assert benchmark.pedantic(rows.distance, (counts,), rounds=3, warmup_rounds=1) > 0.0


@pytest.mark.parametrize("d", [64, pytest.param(POOL, marks=LARGE)])
def test_precision_recall(benchmark: Any, d: int) -> None:
    n = 1000 if benchmark.disabled else 10_000
    benchmark.group = f"precision and recall, 10,000 x 10,000, D = {d}"
    rng = np.random.default_rng(0)
    ref, gen = rng.normal(size=(2, n, d))
    rounds = 3 if d == 64 else 1
    precision, recall = benchmark.pedantic(precision_recall, (ref, gen), rounds=rounds)
    assert 0.0 < precision <= 1.0 and 0.0 < recall <= 1.0
    benchmark.extra_info.update(n_samples=n, n_reference=n)


def test_kid(benchmark: Any) -> None:
    """100 subsets of 1,000 at D = 64, by torch-fidelity."""
    subsets, size = (5, 100) if benchmark.disabled else (100, 1000)
    benchmark.group = "KID, 100 subsets of 1,000, D = 64"
    gen, ref = np.random.default_rng(0).normal(size=(2, 2 * size, 64))
    mean, _ = benchmark.pedantic(kid, (gen, ref, subsets, size), rounds=3)
    assert abs(mean) < 0.1
