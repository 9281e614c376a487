"""The stats command: what it builds verifies, what is damaged is named, and bad input is one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets as hub
import numpy as np
import pytest
import torch
from PIL import Image

from bench import cli
from bench.data import image_set, preprocessing
from bench.data.sets import digits
from bench.quality.features import classifiers
from bench.quality.references import manifest, pins
from bench.quality.references.build import build_reference
from bench.quality.references.manifest import load_manifest
from bench.quality.references.reference import read_reference, write_reference
from bench.quality.references.resolve import resolve_reference
from bench.quality.references.verify import Check, verify_reference
from bench.records import checksums

pytestmark = pytest.mark.usefixtures("one_thread")

MANIFEST = """
schema_version = 1

[half]
title = "Half of the digits"
dataset = "digits"
split = "all"
source = "https://example.org/HALF.npz"
keys = ["mu", "sigma"]
preprocessing = "native"
resolution = 8
images = 900
extractor = "digits-cnn"

[digits]
title = "All digits"
dataset = "digits"
split = "all"
source = "sklearn.datasets.load_digits"
preprocessing = "native"
resolution = 8
images = 1797
extractor = "digits-cnn"
note = "small | grey"
"""
Stats = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "reference_stats"
    (directory / "statistics").mkdir(parents=True)
    (directory / "manifest.toml").write_text(MANIFEST)
    monkeypatch.setattr(manifest, "ROOT", directory)
    return directory


@pytest.fixture
def stats(root: Path, capsys: pytest.CaptureFixture[str]) -> Stats:
    """Run `bench stats` with these arguments: exit status, standard output, standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            cli.main(["stats", *map(str, arguments)])
        assert isinstance(done.value.code, int)
        return done.value.code, *capsys.readouterr()

    return run


def table(text: str) -> dict[str, dict[str, str]]:
    """Rows of a markdown table by their first cell."""
    header, _, *rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.strip().splitlines()
    ]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def own_images(path: Path, n: int = 70) -> Path:
    np.savez(path, arr_0=digits.load_digits().images[:n].permute(0, 2, 3, 1).numpy())
    return path


def half(path: Path, seed: int = 0) -> Path:
    rows = np.random.default_rng(seed).normal(size=(100, 64))
    np.savez(path, mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    return path


def test_what_is_built_verifies_and_is_listed(root: Path, stats: Stats) -> None:
    status, out, err = stats("build", "digits")
    assert (status, out) == (0, "") and "1797 images, 64 features" in err
    assert sorted(file.name for file in (root / "statistics").iterdir()) == ["digits.json", "digits.npz"]
    sidecar = json.loads((root / "statistics" / "digits.json").read_text())
    assert (sidecar["dataset"], sidecar["split"], sidecar["preprocessing"]) == ("digits", "all", preprocessing.NATIVE)
    assert sidecar["weights_sha256"] == checksums.file_sha256(classifiers.DIGITS.weights)
    assert sidecar["environment"]["torch"]["version"] == torch.__version__
    assert pins.read_pins()["digits"].sha256 == sidecar["sha256"]

    status, out, err = stats("verify")
    assert status == 0 and err == ""
    assert {name: row["status"] for name, row in table(out).items()} == {"half": "missing", "digits": "ok"}
    assert "https://example.org/HALF.npz" in out

    status, out, _ = stats("list")
    rows = table(out)
    assert status == 0 and list(rows) == ["half", "digits"]
    assert rows["half"]["checksum"] == "at first use" and rows["digits"]["checksum"].startswith("first use 20")
    assert rows["digits"]["present"].endswith("digits.npz") and not rows["half"]["present"]

    status, out, err = stats("build", "digits")
    assert status == 2 and "exists already" in err


def test_building_again_on_purpose_renews_the_pin(root: Path, stats: Stats) -> None:
    path = root / "statistics" / "digits.npz"
    path.with_name("x").write_bytes(b"1")
    pins.pin(load_manifest()["digits"], path.with_name("x"), "a" * 64)
    assert stats("build", "digits")[0] == 0
    assert pins.read_pins()["digits"].sha256 == checksums.file_sha256(path)


def test_own_images_of_a_file(root: Path, stats: Stats, tmp_path: Path) -> None:
    images = own_images(tmp_path / "own.npz")
    out = tmp_path / "out"
    status, _, _ = stats("build", images, "--name", "mine", "--extractor", "digits-cnn", "--out", out)
    assert status == 0 and not (root / "pins.json").exists()
    built = resolve_reference(out / "mine.npz")
    assert (built.name, built.pool.count, built.record["split"]) == ("mine", 70, None)


def test_a_stream_gives_the_same_statistics_and_leaves_no_copy(
    root: Path,
    stats: Stats,
    tmp_path: Path,
    random_pictures: Callable[..., list[Image.Image]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = {"img": random_pictures(70, 32, 32), "label": [0] * 70}
    (tmp_path / "data").mkdir()
    kinds = hub.Features({"img": hub.Image(), "label": hub.ClassLabel(num_classes=10)})
    hub.Dataset.from_dict(columns, features=kinds).to_parquet(tmp_path / "data" / "train-0.parquet", batch_size=30)
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    arguments = ["build", "cifar10", "--data-root", tmp_path, "--resolution", "8", "--extractor", "digits-cnn"]

    assert stats(*arguments, "--name", "streamed", "--streaming")[0] == 0
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    assert stats(*arguments, "--name", "mapped")[0] == 0
    assert list((tmp_path / "cache").rglob("*.arrow"))
    streamed, mapped = (root / "statistics" / f"{name}.npz" for name in ("streamed", "mapped"))
    assert streamed.read_bytes() == mapped.read_bytes()
    assert resolve_reference(streamed).record["preprocessing"] == "adm-centre-crop"


def test_a_departure_from_the_manifest_gets_a_name_of_its_own(root: Path, stats: Stats) -> None:
    weights = classifiers.DIGITS.weights
    arguments = ["--weights", weights, "--weights-sha256", checksums.file_sha256(weights)]
    assert stats("build", "digits", *arguments)[0] == 0
    (built,) = (root / "statistics").glob("*.npz")
    assert built.name.startswith("digits-") and not (root / "pins.json").exists()


def test_a_wrong_checksum_and_damage_are_told_apart(root: Path, stats: Stats) -> None:
    path = half(root / "statistics" / "HALF.npz")
    first = checksums.file_sha256(path)
    status, out, _ = stats("verify", "half")
    assert status == 0 and first in table(out)["half"]["note"]
    half(path, seed=1)
    status, out, err = stats("verify", "half", "digits")
    rows = table(out)
    assert status == 1 and err == "damaged or changed: half\n"
    assert rows["half"]["status"] == "wrong checksum" and rows["digits"]["status"] == "missing"
    assert first in rows["half"]["note"] and checksums.file_sha256(path) in rows["half"]["note"]
    (root / "pins.json").unlink()
    path.write_bytes(path.read_bytes()[:4000])
    status, out, _ = stats("verify", "half")
    assert status == 1 and table(out)["half"]["status"] == "damaged" and "no whole" in out
    assert not (root / "pins.json").exists()


def check(root: Path, covariance: np.ndarray) -> Check:
    np.savez(root / "statistics" / "HALF.npz", mu=np.zeros(64), sigma=covariance)
    return verify_reference(load_manifest()["half"])


def test_a_covariance_must_be_positive_semidefinite_to_rounding(root: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 64))
    assert check(root, np.cov(rows, rowvar=False)).status == "ok"  # singular: 19 of 64 directions
    (root / "pins.json").unlink()
    assert check(root, np.cov(rows, rowvar=False).astype(np.float32)).status == "ok"
    (root / "pins.json").unlink()
    wrong = np.eye(64)
    wrong[0, 1] = wrong[1, 0] = 2.0
    found = check(root, wrong)
    assert found.status == "damaged" and "not positive semi-definite, it has the eigenvalue -1" in found.note
    assert "NaN" in check(root, np.full((64, 64), np.nan)).note
    assert not (root / "pins.json").exists()


def test_statistics_of_other_weights_and_lost_rows_are_found(root: Path, stats: Stats) -> None:
    stats("build", "digits")
    path = root / "statistics" / "digits.npz"
    built = read_reference(path)
    assert built.rows is not None
    entry = load_manifest()["digits"]
    for change, status, note in (
        ({"record": built.record | {"weights_sha256": "b" * 64}}, "wrong checksum", "b" * 64),
        ({"rows": built.rows[1:]}, "damaged", "1796 rows in features, expected 1797"),
    ):
        write_reference(path, replace(built, **change))
        pins.renew(entry, path, checksums.file_sha256(path))
        found = verify_reference(entry)
        assert found.status == status and note in found.note


def test_the_committed_statistics_verify() -> None:
    entry = load_manifest()["digits"]
    assert entry.sha256 is not None
    assert verify_reference(entry).status == "ok"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "action"),
        (["remove"], "remove"),
        (["build"], "NAME"),
        (["verify", "--strict"], "--strict"),
        (["verify", "nothing"], "nothing: no such reference; the manifest has half, digits"),
        (["build", "half"], "ready made; download https://example.org/HALF.npz"),
        (["build", "somewhere"], "--name NAME"),
        (["build", "somewhere", "--name", "a/b"], "--name a/b"),
        (["build", "somewhere", "--name", "digits"], "--name digits"),
        (["build", "digits", "--name", "half"], "--name half"),
        (["build", "nowhere", "--name", "mine", "--extractor", "digits-cnn"], "nowhere"),
        (["build", "nowhere", "--name", "mine", "--extractor", "digits-cnn", "--streaming"], "a data set by name"),
        (["build", "nowhere", "--name", "mine", "--extractor", "vgg"], "digits-cnn, fashion-cnn, inception-v3-compat"),
        (["build", "digits", "--split", "test"], "no split 'test'"),
        (["build", "digits", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["build", "digits", "--weights-sha256", "ab"], "64 hexadecimal"),
        (["build", "digits", "--weights-sha256", "a" * 64], "a" * 64),
    ],
)
def test_bad_input_is_one_line_and_status_2(root: Path, stats: Stats, arguments: list[str], message: str) -> None:
    status, out, err = stats(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and message in err
    assert not list((root / "statistics").iterdir())


def test_a_data_set_that_is_not_whole_is_refused(root: Path, stats: Stats) -> None:
    manifest = root / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("1797", "1798"))
    status, _, err = stats("build", "digits")
    assert status == 2 and "1797 images, the manifest says 1798" in err


def test_parts_that_were_built_apart_merge_to_the_statistics_of_the_whole(
    root: Path, stats: Stats, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        assert stats("build", "digits", "--part", f"{number}/3", "--out", tmp_path)[0] == 0
    parts = [tmp_path / f"digits.{number}of3.npz" for number in (1, 2, 3)]
    status, out, err = stats("merge", "digits", *parts)
    assert (status, out) == (0, "") and "1797 images of 3 parts" in err
    assert table(stats("verify", "digits")[1])["digits"]["status"] == "ok"
    merged = read_reference(root / "statistics" / "digits.npz")
    assert "part" not in merged.record
    whole = build_reference(digits_images(), "digits-cnn", name="digits", record={})
    assert whole.rows is not None and merged.rows is not None and np.array_equal(merged.rows, whole.rows)
    for mine, theirs in ((merged.pool, whole.pool), (merged.spatial, whole.spatial)):
        assert mine is not None and theirs is not None and mine.count == theirs.count == 1797
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(mine.covariance, theirs.covariance, rtol=1e-9, atol=1e-12)


def digits_images() -> image_set.Images:
    return image_set.of_tensor(digits.load_digits().images, "digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "digits", "--part", "third"), "K/N"),
        (("build", "digits", "--part", "4/3"), "there is none"),
        (("build", "digits", "--part", "0/3"), "there is none"),
        (("build", "digits", "--part", "1/3", "--streaming"), "leave it or --part out"),
        (("merge", "digits", "absent.npz"), "absent.npz"),
        (("merge", "half", "absent.npz"), "ready made"),
        (("merge", "a/b", "absent.npz"), "no file name"),
    ],
)
def test_a_part_that_does_not_exist_is_refused(stats: Stats, arguments: tuple[str, ...], message: str) -> None:
    status, _, err = stats(*arguments)
    assert status == 2 and message in err and len(err.splitlines()) == 1


def test_a_whole_that_lacks_a_part_is_refused(stats: Stats, tmp_path: Path) -> None:
    assert stats("build", "digits", "--part", "1/2", "--out", tmp_path)[0] == 0
    status, _, err = stats("merge", "digits", tmp_path / "digits.1of2.npz")
    assert status == 2 and "give the parts 1/2 to 2/2" in err
