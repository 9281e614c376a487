from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cli
from bench.claims.summary import read_summary
from bench.data import image_set
from bench.data.sets import digits
from bench.quality import presets
from bench.quality.references import manifest
from bench.quality.references.build import build_reference
from bench.records.tables import read_table
from dydit.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

MANIFEST = """
schema_version = 1

[small]
title = "Digits as an ADM evaluator's file would hold them"
dataset = "digits"
split = "all"
source = "https://example.org/VIRTUAL_small.npz"
preprocessing = "native"
resolution = 8
images = 400
extractor = "digits-cnn"
keys = ["mu", "sigma", "mu_s", "sigma_s", "arr_0"]
"""
METRICS = ("IS", "FID", "sFID", "precision", "recall")


def preset(metrics: str) -> str:
    return f"""
[small]
title = "A small evaluation"
source = "https://example.org/README"
extractor = "digits-cnn"
samples = "https://example.org/made.npz"
reference = "small"
distances = "float64"
{metrics}
"""


def metric(name: str, value: float) -> str:
    return f'[small.metrics.{name}]\nvalue = {value}\ntolerance = 0.01\nreason = "one machine and another"\n'


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preset of digits with both of its files in `tmp_path`, in the layout of the published ones."""
    pixels = digits.load_digits().images[torch.randperm(1797, generator=torch.Generator().manual_seed(1))]
    built = build_reference(image_set.of_tensor(pixels[:400], "real"), "digits-cnn", name="real", record={})
    assert built.spatial is not None
    np.savez(
        tmp_path / "VIRTUAL_small.npz",
        mu=built.pool.mean,
        sigma=built.pool.covariance,
        mu_s=built.spatial.mean,
        sigma_s=built.spatial.covariance,
        arr_0=pixels[:100].permute(0, 2, 3, 1).numpy(),
    )
    np.savez(tmp_path / "made.npz", arr_0=pixels[400:600].permute(0, 2, 3, 1).numpy())
    root = tmp_path / "root"
    root.mkdir()
    (root / "manifest.toml").write_text(MANIFEST)
    (root / "presets.toml").write_text(preset("".join(metric(name, 2.0) for name in METRICS)))
    monkeypatch.setattr(manifest, "ROOT", root)
    monkeypatch.setattr(presets, "PATH", root / "presets.toml")
    return tmp_path


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["quality", *map(str, arguments), "--out", str(tmp_path / "out")])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, "".join(capsys.readouterr())

    return run


def test_the_published_example_of_the_adm_evaluator_is_there_as_printed() -> None:
    example = presets.find_preset("adm-g-imagenet256")
    printed = {name: f"{published.value:.4f}" for name, published in example.metrics.items()}
    assert printed == {
        "IS": "215.8370",
        "FID": "3.9426",
        "sFID": "6.1404",
        "precision": "0.8265",
        "recall": "0.5309",
    }
    assert example.distances == "adm-float16"
    assert example.extractor == "inception-v3-compat" and example.file == "admnet_guided_upsampled_imagenet256.npz"
    entry = manifest.load_manifest()[example.reference]
    assert entry.file == "VIRTUAL_imagenet256_labeled.npz" and entry.resolution == 256
    for name, published in example.metrics.items():
        assert 0 < published.tolerance.below == published.tolerance.above < 0.01 * published.value, name


def test_missing_files_are_named_with_where_to_get_them(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    status, line = command("--preset", "adm-g-imagenet256", "--data-root", tmp_path)
    example = presets.find_preset("adm-g-imagenet256")
    assert status == 2 and len(line.splitlines()) == 1
    assert str(tmp_path) in line and example.samples in line and "/VIRTUAL_imagenet256_labeled.npz)" in line
    (tmp_path / example.file).touch()
    _, line = command("--preset", "adm-g-imagenet256", "--data-root", tmp_path)
    assert example.samples not in line and "/VIRTUAL_imagenet256_labeled.npz)" in line


def test_a_preset_writes_its_verdicts(command: Callable[..., tuple[int, str]], files: Path) -> None:
    status, shown = command("--preset", "small", "--data-root", files, "--resamples", 0)
    assert status == 0 and "5 of 5 published numbers were measured" in shown
    rows = read_summary(files / "out")
    table = read_table(files / "out", "quality").set_index("metric")["value"]
    assert [row.metric for row in rows] == [f"{name}[digits-cnn]" for name in METRICS]
    for row in rows:
        assert (
            row.published == 2.0 and row.measured == table[row.metric] and row.evidence == f"quality.csv: {row.metric}"
        )
        assert row.verdict == "deviates" and row.tolerance == "±0.01 (one machine and another)"
    measured = {name: table[f"{name}[digits-cnn]"] for name in METRICS}
    close = "".join(metric(name, value + 0.009) for name, value in measured.items())
    (files / "root" / "presets.toml").write_text(preset(close))
    presets._load.cache_clear()
    status, _ = command("--preset", "small", "--data-root", files, "--resamples", 0, "--strict")
    assert status == 0 and {row.verdict for row in read_summary(files / "out")} == {"reproduced"}
    (files / "root" / "presets.toml").write_text(preset(close.replace("0.01", "0.001", 1)))
    presets._load.cache_clear()
    assert command("--preset", "small", "--data-root", files, "--resamples", 0, "--strict")[0] == 1
    assert [row.verdict for row in read_summary(files / "out")] == ["deviates"] + 4 * ["reproduced"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[small", "not TOML"),
        (preset("") + "[small.metrics]\nFIT = {value = 1.0, tolerance = 0.1, reason = 'x'}", "metric FIT"),
        (preset("") + "[small.metrics]\nFID = {value = 1.0, reason = 'x'}", "metric FID with reason, value"),
        (preset(""), "a preset has title, source"),
        (preset("metrics = {}").replace('"small"', '"large"'), "'large' is no name of the manifest"),
        (preset("metrics = {}").replace("digits-cnn", "vgg"), "unknown feature extractor 'vgg'"),
        (preset("metrics = {}").replace("float64", "float8"), "distances 'float8'; choose one of float64, adm-float16"),
    ],
)
def test_presets_that_cannot_be_used(files: Path, text: str, message: str) -> None:
    presets._load.cache_clear()
    (files / "root" / "presets.toml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        presets.find_preset("small")
    assert "\n" not in str(caught.value)
    presets.PATH.unlink()
    presets._load.cache_clear()
    with pytest.raises(InputError, match="cannot be read"):
        presets.find_preset("small")
