"""Drift between two runs of the same noise: 0 for a run against itself, and refused where there are no pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import cli
from bench.data import image_set
from bench.data.sets import digits
from bench.quality.drift import measure_drift
from bench.quality.features import extractor
from bench.quality.measure import extract
from bench.quality.metrics.frechet import fid
from bench.records import read_run, read_table
from bench.studies.samples import committed_file
from dydit import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = digits.load_digits().images
Drift = Callable[..., tuple[int, str]]


def named(images: Tensor, name: str, labels: Tensor | None = None) -> image_set.Images:
    return image_set.of_tensor(images, name, labels)


def drift_of(one: Tensor, other: Tensor, **labels: Tensor) -> dict[str, dict[str, float]]:
    weights = extractor("digits-cnn").weights()
    measured = measure_drift(named(one, "one"), named(other, "other"), "digits-cnn", weights)
    return {row["metric"]: row for row in measured.rows("FID[digits-cnn]")}


def test_errors_psnr_and_fid_are_those_of_the_pairs() -> None:
    one = DIGITS[:40]
    other = one.clone()
    other[:10] = (other[:10].int() + 7).clamp(max=255).to(torch.uint8)
    rows = drift_of(one, other)
    errors = ((one.double() - other.double()) ** 2).mean(dim=(1, 2, 3))
    assert rows["MSE"]["value"] == pytest.approx(errors.mean().item())
    assert rows["identical"]["value"] == 0.75 and rows["PSNR"]["value"] == np.inf
    features = [extract(images, ["64"], extractor="digits-cnn")["64"].numpy() for images in (one, other)]
    assert rows["FID[digits-cnn]"]["value"] == pytest.approx(fid(*features))
    rows = drift_of(one, other.roll(1, 0))
    errors = ((one.double() - other.roll(1, 0).double()) ** 2).mean(dim=(1, 2, 3))
    assert rows["PSNR"]["value"] == pytest.approx(10 * np.log10(255**2 / np.median(errors)))
    for metric in ("MSE", "PSNR"):
        assert rows[metric]["low"] <= rows[metric]["value"] <= rows[metric]["high"]


def test_a_set_against_itself_reads_zero() -> None:
    rows = drift_of(DIGITS[:20], DIGITS[:20])
    assert rows["MSE"]["value"] == rows["MSE"]["high"] == rows["FID[digits-cnn]"]["value"] == 0
    assert rows["PSNR"]["value"] == np.inf and rows["identical"]["value"] == 1


def test_sets_that_are_no_pairs_are_refused() -> None:
    weights = extractor("digits-cnn").weights()
    one, labels = DIGITS[:20], torch.arange(20) % 10
    for other, words in ((named(one[:19], "other"), "19 of"), (named(one, "other", labels.flip(0)), "labels differ")):
        with pytest.raises(InputError, match=words):
            measure_drift(named(one, "one", labels), other, "digits-cnn", weights)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of `generate`: static and dynamic with one seed, and static with another."""
    root = tmp_path_factory.mktemp("runs")
    for name, target, seed in (("static", None, 0), ("dynamic", 0.5, 0), ("other", None, 1)):
        arguments = ["generate", "--checkpoint", str(committed_file(target)), "--images", "12", "--steps", "3"]
        with pytest.raises(SystemExit) as exit_:
            cli.main([*arguments, "--seed", str(seed), "--out", str(root / name)])
        assert exit_.value.code == 0
    return root


@pytest.fixture
def drift(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Drift:
    """`quality --paired` of two of the runs into `tmp_path / "out"`: exit status, and what was printed."""

    def run(one: str, other: str, *arguments: object) -> tuple[int, str]:
        pair = ["--samples", runs / one, "--paired", runs / other]
        with pytest.raises(SystemExit) as exit_:
            cli.main(["quality", *map(str, (*pair, *arguments)), "--out", str(tmp_path / "out")])
        assert isinstance(exit_.value.code, int)
        stdout, stderr = capsys.readouterr()
        return exit_.value.code, stdout or stderr

    return run


def test_two_runs_are_compared_and_recorded(drift: Drift, tmp_path: Path) -> None:
    status, shown = drift("dynamic", "static")
    assert status == 0 and "| PSNR |" in shown
    table = read_table(tmp_path / "out", "drift").set_index("metric")
    images = read_table(tmp_path / "out", "drift_images")
    assert list(table.index) == ["MSE", "PSNR", "identical", "FID[digits-cnn]"] and (table["n_samples"] == 12).all()
    assert (
        len(images) == 12
        and images["mse"].mean() == pytest.approx(table.loc["MSE", "value"])
        and images["mse"].min() > 0
    )
    record = read_run(tmp_path / "out")
    assert record["samples"]["manifest"]["identity"]["seed"] == record["paired"]["manifest"]["identity"]["seed"] == 0
    with Image.open(tmp_path / "out" / "pairs.png") as picture:  # 8 of 8 x 8 pixels side by side, a line around each
        assert picture.size == ((8 * 9 + 1) * 8, (3 * 9 + 1) * 8)
        first, second, apart = (
            np.asarray(picture.crop((8, 8 + row * 72, 72, 72 + row * 72))).astype(int) for row in range(3)
        )
    assert (apart == abs(first - second)).all() and apart.max() > 0
    status, _ = drift("static", "static")
    assert status == 0 and read_table(tmp_path / "out", "drift").set_index("metric").loc["MSE", "value"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("static", "other"), "has seed 0, .* has 1; pairs need equal ones"),
        (("static", "."), "not a run of `generate`, it has no manifest.json"),
        (("static", "dynamic", "--reference", "digits"), "--reference digits: --paired compares two runs"),
        (("static", "dynamic", "--metrics", "FID"), "--metrics FID: --paired compares two runs"),
    ],
)
def test_what_is_no_pair_is_one_line(drift: Drift, arguments: tuple[str, ...], words: str) -> None:
    status, line = drift(*arguments)
    assert status == 2 and line.startswith("error: ") and len(line.splitlines()) == 1
    with pytest.raises(InputError, match=words):
        raise InputError(line)
