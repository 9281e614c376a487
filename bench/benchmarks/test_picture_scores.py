"""Timed: FID, IS and KID of picture files, beside torch-fidelity's on the same files and weights.

Where nothing is timed (`--benchmark-disable`) the pictures are few and small. `--large` adds more of them: 40,000 take
an hour on a CPU of 2 cores.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bench.data.sources import open_images
from bench.machine import Timed, speedup
from bench.quality.features import extractor, inception
from bench.quality.measure import measure_quality
from bench.records import Results, environment_record, file_sha256

OURS, THEIRS = "this suite", "torch-fidelity"


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


def scores_by_this_suite(made: Path, real: Path, weights_file: Path, digest: str) -> dict[str, float]:
    """FID, IS and KID of the picture files in two folders; `digest` is the SHA-256 of the weights file."""
    weights = extractor(inception.NAME).weights(weights_file, digest)
    images = (open_images(str(folder)) for folder in (made, real))
    found = measure_quality(
        *images, extractor=inception.NAME, weights=weights, metrics=("FID", "IS", "KID"), resamples=0
    )
    return {metric: found[metric].value for metric in ("FID", "IS", "KID")}


def scores_by_torch_fidelity(made: Path, real: Path, weights_file: Path, count: int) -> dict[str, float]:
    """The same by torch-fidelity's settings that this suite has; `count` is the number of files in a folder."""
    import torch_fidelity

    found = torch_fidelity.calculate_metrics(
        input1=str(made),
        input2=str(real),
        feature_extractor=inception.NAME,
        feature_extractor_weights_path=str(weights_file),
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


class Measured:
    """Scores, milliseconds of every round, and the largest resident memory in MiB, of each call by its name."""

    def __init__(self, calls: dict[str, Callable[[], dict[str, float]]]) -> None:
        self.calls = calls
        self.found: dict[str, dict[str, float]] = {}
        self.rounds_ms: dict[str, list[float]] = {name: [] for name in calls}
        self.peak_mib: dict[str, float | None] = {}

    def run(self, name: str) -> None:
        """One round of a call, from memory that the rounds before it have given back to the system."""
        with contextlib.suppress(OSError, AttributeError):  # Linux and the GNU C library have these
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        began = time.perf_counter()
        self.found[name] = self.calls[name]()
        self.rounds_ms[name].append((time.perf_counter() - began) * 1e3)
        with contextlib.suppress(OSError):
            self.peak_mib[name] = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10

    def row(self, pictures: int) -> dict[str, Any]:
        """One row of quality_speed.csv, for that many pictures on both sides together; one round has no interval."""
        ours, theirs = (Timed(rounds[0], tuple(rounds)) for rounds in (self.rounds_ms[OURS], self.rounds_ms[THEIRS]))
        ratio, low, high = speedup(theirs, ours)
        several = len(ours.rounds_ms) > 1
        device = "cuda" if torch.cuda.is_available() else "cpu"
        row: dict[str, Any] = {"pictures": pictures, "device": device, "rounds": len(ours.rounds_ms)}
        for ending, timed in (("", ours), ("_torch_fidelity", theirs)):
            row |= {f"seconds{ending}": timed.median / 1e3, f"images_per_s{ending}": pictures / timed.median * 1e3}
        row |= {"speedup": ratio, "speedup_low": low if several else None, "speedup_high": high if several else None}
        row |= {"peak_mib": self.peak_mib.get(OURS), "peak_mib_torch_fidelity": self.peak_mib.get(THEIRS)}
        for metric, value in self.found[OURS].items():
            row |= {metric: value, f"{metric}_torch_fidelity": self.found[THEIRS][metric]}
        return row


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """The rows of quality_speed.csv that are measured so far."""
    return []


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    """The times of every round that are measured so far, for the record."""
    return []


@pytest.mark.parametrize(
    "count", [130, *(pytest.param(count, marks=pytest.mark.large) for count in (500, 2000, 20_000))]
)
def test_scores_of_picture_files(
    benchmark: Any,
    inception_file: Path,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    samples: list[dict[str, Any]],
    pytestconfig: pytest.Config,
    count: int,
) -> None:
    """The same files and weights on both sides, from pictures to FID, IS and KID, which are equal to 1e-4.

    A round of torch-fidelity stands before every round of this suite. With `--tables DIR`, quality_speed.csv there has
    a row for each number of pictures.
    """
    count, side = (20, 32) if benchmark.disabled else (count, 256)
    made, real = (pictures(tmp_path / name, count, side, seed) for seed, name in enumerate(("made", "real")))
    benchmark.group = f"FID, IS and KID of {count} pictures against as many, InceptionV3"
    digest = file_sha256(inception_file)

    measured = Measured(
        {
            OURS: lambda: scores_by_this_suite(made, real, inception_file, digest),
            THEIRS: lambda: scores_by_torch_fidelity(made, real, inception_file, count),
        }
    )
    benchmark.pedantic(measured.run, (OURS,), setup=lambda: measured.run(THEIRS), rounds=max(1, 500 // count))
    for metric, value in measured.found[THEIRS].items():
        # KID is a small difference of kernels near 1; their float32 features round it.
        np.testing.assert_allclose(measured.found[OURS][metric], value, rtol=1e-4, atol=1e-6, err_msg=metric)
    if benchmark.disabled:
        return
    rows.append(measured.row(2 * count))
    samples.append({"pictures": 2 * count, "rounds_ms": measured.rounds_ms})
    benchmark.extra_info.update(rows[-1])
    if directory := pytestconfig.getoption("--tables"):
        results = Results(directory)
        results.write_table(pd.DataFrame(rows), "quality_speed")
        results.write_record(environment_record(samples=samples))
