"""The quality command: whole tables from every kind of input, and one line for what cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import cli
from bench.data import image_set, shards
from bench.data.sets import digits
from bench.quality.features import classifiers, inception
from bench.quality.references.build import build_reference
from bench.quality.references.reference import write_reference
from bench.records import checksums, read_json, run_record, write_json
from bench.records.tables import read_table

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = digits.load_digits().images[torch.randperm(1797, generator=torch.Generator().manual_seed(1))]
MADE, REAL = PIXELS[:60], PIXELS[60:140]
RECORD = {"dataset": "digits", "split": "all", "preprocessing": "native"}
Quality = Callable[..., tuple[int, str]]


@pytest.fixture
def measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Quality:
    """Run the command into `tmp_path / "out"`; exit status and what was printed: tables, or the error."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["quality", *map(str, arguments), "--out", str(tmp_path / "out")])
        stdout, stderr = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        assert (stdout == "") == (exit_.value.code == 2)
        return exit_.value.code, stdout or stderr

    return run


def refused(outcome: tuple[int, str]) -> str:
    status, line = outcome
    assert status == 2 and line.startswith("error: ") and len(line.splitlines()) == 1
    return line


def nhwc(pixels: Tensor) -> np.ndarray:
    return pixels.permute(0, 2, 3, 1).numpy()


def archive(path: Path, pixels: Tensor = MADE) -> Path:
    np.savez(path, arr_0=nhwc(pixels))
    return path


def write_folder(folder: Path, pixels: Tensor) -> Path:
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image[0].numpy()).save(folder / f"{number:03d}.png")
    return folder


def write_shards(folder: Path, pixels: Tensor) -> Path:
    manifest = shards.Manifest(len(pixels), 25, (8, 8, 1), {"model": "none", "seed": 3}, {"command": "by hand"})
    shards.write_manifest(folder, manifest)
    for unit in range(manifest.units):
        rows = manifest.indices(unit)
        labels = np.zeros(len(rows), dtype=np.int64)
        shards.write_unit(folder, manifest, unit, nhwc(pixels[rows.start : rows.stop]), labels)
    return folder


def test_every_kind_of_input_gives_the_same_table(measured: Quality, tmp_path: Path) -> None:
    kinds = {
        "npz": archive(tmp_path / "made.npz"),
        "folder": write_folder(tmp_path / "folder", MADE),
        "shards": write_shards(tmp_path / "shards", MADE),
    }
    real = archive(tmp_path / "real.npz", REAL)
    built = build_reference(image_set.of_tensor(REAL, "real"), "digits-cnn", name="real", record=RECORD)
    write_reference(tmp_path / "statistics.npz", built)
    tables = {}
    for kind, path in kinds.items():
        against = tmp_path / "statistics.npz" if kind == "folder" else real
        status, shown = measured("--samples", path, "--reference", against, "--resamples", 0)
        assert status == 0 and "FID[digits-cnn]" in shown
        tables[kind] = read_table(tmp_path / "out", "quality")
        record = run_record.read_run(tmp_path / "out")
        assert record["samples"]["count"] == 60 and record["quality"]["resamples"] == 0
        assert ("manifest" in record["samples"]) == (kind == "shards")
    assert record["samples"]["manifest"]["identity"] == {"model": "none", "seed": 3}
    columns = "samples reference metric value low high std n_samples n_reference splits extractor weights_sha256"
    columns += " arithmetic note"
    assert all(list(table.columns) == columns.split() for table in tables.values())
    for kind in ("folder", "shards"):
        assert list(tables[kind]["metric"]) == list(tables["npz"]["metric"])
        np.testing.assert_allclose(tables[kind]["value"], tables["npz"]["value"], rtol=1e-6)
    assert (tmp_path / "out" / "quality.md").is_file()
    assert tables["npz"]["samples"].unique().tolist() == [str(kinds["npz"])]


def test_intervals_and_counts_are_in_the_table(measured: Quality, tmp_path: Path) -> None:
    arguments = ("--samples", archive(tmp_path / "made.npz"), "--reference", archive(tmp_path / "real.npz", REAL))
    assert measured(*arguments, "--metrics", "FID", "IS", "--resamples", 5, "--batch", 13)[0] == 0
    table = read_table(tmp_path / "out", "quality").set_index("metric")
    fid = table.loc["FID[digits-cnn]"]
    assert fid["low"] < fid["value"] < fid["high"] and fid["n_reference"] == 80 and fid["n_samples"] == 60
    assert table.loc["IS[digits-cnn]", "splits"] == 10 and np.isnan(table.loc["IS[digits-cnn]", "n_reference"])
    assert list(table.index) == [
        f"{name}[digits-cnn]" for name in ("FID", "FID-infinity", "images_for_0.1", "IS", "IS_std", "IS_all")
    ]
    assert ",80," in (tmp_path / "out" / "quality.csv").read_text()  # counts are whole numbers


def test_data_sets_and_committed_statistics_go_by_name(measured: Quality, tmp_path: Path) -> None:
    names = ("--samples", "digits/all", "--reference", "digits")
    assert measured(*names, "--metrics", "FID", "precision", "recall", "--resamples", 0)[0] == 0
    table = read_table(tmp_path / "out", "quality").set_index("metric")
    assert table["n_samples"].eq(1797).all() and table.loc["FID[digits-cnn]", "value"] < 1e-6
    assert table.loc["precision[digits-cnn]", "value"] == table.loc["recall[digits-cnn]", "value"] == 1.0
    assert "scikit" not in refused(measured("--samples", "digits/none", "--reference", "digits"))


def test_samples_that_cannot_be_used(measured: Quality, tmp_path: Path) -> None:
    real = archive(tmp_path / "real.npz", REAL)

    def refusal(samples: object, *more: object) -> str:
        return refused(measured("--samples", samples, "--reference", real, *more))

    whole = archive(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz: no whole .npz" in refusal(tmp_path / "cut.npz")
    np.savez(tmp_path / "floats.npz", arr_0=nhwc(MADE).astype(np.float32))
    assert "floats.npz: arr_0 is float32" in refusal(tmp_path / "floats.npz")
    np.savez(tmp_path / "flat.npz", arr_0=nhwc(MADE)[0])
    assert "flat.npz: arr_0 is uint8 (8, 8, 1)" in refusal(tmp_path / "flat.npz")
    assert "few.npz: 9 images; 10 splits" in refusal(archive(tmp_path / "few.npz", MADE[:9]))
    large = torch.zeros(12, 1, 16, 16, dtype=torch.uint8)
    assert "16x16 pixels; digits-cnn takes 8x8" in refusal(archive(tmp_path / "large.npz", large))
    assert "no such file" in refusal(tmp_path / "nothing")
    assert "metrics: psnr asked for" in refusal(tmp_path / "whole.npz", "--metrics", "psnr")
    assert "unknown feature extractor 'vgg'" in refusal(tmp_path / "whole.npz", "--extractor", "vgg")
    assert not list((tmp_path / "out").glob("*"))


def test_pictures_that_cannot_be_used(measured: Quality, tmp_path: Path) -> None:
    real = archive(tmp_path / "real.npz", REAL)
    folder = write_folder(tmp_path / "folder", MADE[:12])
    whole = (folder / "007.png").read_bytes()
    (folder / "007.png").write_bytes(whole[:-30])  # the header is whole: found when it is read
    assert f"{folder / '007.png'}: not a whole picture" in refused(measured("--samples", folder, "--reference", real))
    (folder / "007.png").write_bytes(b"no picture")
    assert str(folder / "007.png") in refused(measured("--samples", folder, "--reference", real))
    Image.new("L", (9, 8)).save(folder / "007.png")
    line = refused(measured("--samples", folder, "--reference", real))
    assert "8x8 pixels" in line and " 8x9;" in line and "007.png" in line
    assert not list((tmp_path / "out").glob("*"))


def test_references_that_cannot_be_used(measured: Quality, tmp_path: Path) -> None:
    made = archive(tmp_path / "made.npz")

    def refusal(against: object, *more: object) -> str:
        return refused(measured("--samples", made, "--reference", against, *more))

    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048, dtype=np.float32))
    assert "another extractor than digits-cnn: it has 2048" in refusal(tmp_path / "adm.npz")
    built = build_reference(image_set.of_tensor(REAL, "real"), "digits-cnn", name="real", record=RECORD)
    path = tmp_path / "built.npz"
    write_reference(path, built)
    sidecar = read_json(path.with_suffix(".json"), "")
    for change, both in (
        ({"extractor": "inception-v3-compat"}, ("inception-v3-compat", "digits-cnn")),
        ({"resolution": [32, 32]}, ("8x8 pixels", "32x32 pixels")),
        ({"weights_sha256": "0" * 64}, ("0" * 64, checksums.file_sha256(classifiers.DIGITS.weights))),
        ({"sha256": "f" * 64}, ("f" * 64, checksums.file_sha256(path))),
    ):
        write_json(sidecar | change, path.with_suffix(".json"))
        line = refusal(path)
        assert all(part in line for part in both)
    mu = built.pool.mean.copy()
    mu[3] = np.nan
    np.savez(tmp_path / "nan.npz", mu=mu, sigma=built.pool.covariance)
    assert "nan.npz" in refusal(tmp_path / "nan.npz") and "NaN" in refusal(tmp_path / "nan.npz")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:2000])
    assert "cut.npz: no whole .npz" in refusal(tmp_path / "cut.npz")
    assert "cifar10" in refusal("elsewhere") and "imagenet-256" in refusal("elsewhere")
    assert "VIRTUAL_imagenet256_labeled.npz" in refusal("imagenet-256", "--data-root", tmp_path)
    assert not list((tmp_path / "out").glob("*"))


def test_weights_that_cannot_be_used(measured: Quality, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    made = archive(tmp_path / "made.npz")
    arguments = ("--samples", made, "--reference", made, "--extractor", "inception-v3-compat")
    line = refused(measured(*arguments))
    assert str(tmp_path / "cache" / "hub" / "checkpoints" / inception.FILE_NAME) in line and inception.URL in line
    other = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(3, 4)}, other)
    line = refused(measured(*arguments, "--weights", other))
    assert checksums.file_sha256(other) in line and inception.SHA256 in line
    accepted = ("--weights", other, "--weights-sha256", checksums.file_sha256(other))
    assert "expected (1008, 2048)" in refused(measured(*arguments, *accepted))
    assert not list((tmp_path / "out").glob("*"))


def test_what_to_measure_must_be_said(measured: Quality, tmp_path: Path) -> None:
    assert "--samples with --reference or --paired, or a --preset" in refused(measured("--samples", tmp_path))
    assert "'adm'; choose one of adm-g-imagenet256" in refused(measured("--preset", "adm"))
    line = refused(measured("--preset", "adm-g-imagenet256", "--samples", tmp_path, "--metrics", "FID"))
    assert "--samples " in line and ", --metrics FID: --preset adm-g-imagenet256 makes its own choice" in line
