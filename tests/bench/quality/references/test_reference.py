"""Reference statistics come back as they were built, or are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics

from bench.data import image_set
from bench.data.sets import digits
from bench.data.sets.opening import open_dataset
from bench.quality.features import classifiers, extraction, extractors
from bench.quality.metrics.moments import Statistics
from bench.quality.references import build as build_module
from bench.quality.references import manifest, pins
from bench.quality.references.build import build_reference
from bench.quality.references.reference import Reference, read_reference, write_reference
from bench.quality.references.resolve import resolve_reference
from bench.records import checksums, read_json, write_json
from dydit.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

RECORD = {"dataset": "digits", "split": "all", "preprocessing": "native"}
MANIFEST = """
schema_version = 1

[made]
title = "Made elsewhere"
dataset = "digits"
split = "all"
source = "https://example.org/files/MADE_8.npz"
keys = ["mu", "sigma", "mu_s", "sigma_s", "arr_0"]
preprocessing = "adm-centre-crop"
resolution = 8
images = 1797
extractor = "digits-cnn"

[built]
title = "Built here"
dataset = "digits"
split = "all"
source = "scikit-learn"
preprocessing = "native"
resolution = 8
images = 60
extractor = "digits-cnn"
"""


def digit_images(n: int) -> image_set.Images:
    return image_set.of_tensor(digits.load_digits().images[:n], "digits")


def build(n: int = 60, name: str = "built", **options: Any) -> Reference:
    return build_reference(digit_images(n), "digits-cnn", name=name, record=RECORD, **options)


def adm_arrays(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """What the ADM evaluator's file of digits would hold, with features of `digits-cnn`'s lengths."""
    rng = np.random.default_rng(seed)
    pool, spatial = rng.normal(size=(80, 64)), rng.normal(size=(80, 112))
    return {
        "mu": pool.mean(0),
        "sigma": np.cov(pool, rowvar=False),
        "mu_s": spatial.mean(0),
        "sigma_s": np.cov(spatial, rowvar=False),
        "arr_0": rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
    }


def save(path: Path, arrays: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `reference_stats` of its own, with one ready-made and one built reference in its manifest."""
    directory = tmp_path / "reference_stats"
    directory.mkdir()
    (directory / "manifest.toml").write_text(MANIFEST)
    monkeypatch.setattr(manifest, "ROOT", directory)
    return directory


# build


def test_statistics_are_those_of_the_features(close: Callable[..., None]) -> None:
    built = build(200)
    spec = extractors.extractor("digits-cnn")
    layers = [spec.features_layer, spec.spatial_layer]
    batches = list(extraction.stream_features(digit_images(200), spec.name, layers, batch_size=200))
    for gaussian, layer in ((built.pool, layers[0]), (built.spatial, layers[1])):
        assert gaussian is not None and gaussian.count == 200
        mean, covariance = fid_features_to_statistics(torch.from_numpy(batches[0][layer])).values()
        close(gaussian, Statistics(200, mean, covariance), 1e-10)
    assert built.rows is not None and built.rows.dtype == np.float32
    np.testing.assert_allclose(built.rows, batches[0][layers[0]].astype(np.float32), rtol=1e-6, atol=1e-6)
    assert (built.extractor, built.size, built.images) == ("digits-cnn", (8, 8), None)
    assert built.record["weights_sha256"] == checksums.file_sha256(classifiers.DIGITS.weights)
    assert built.record["dataset"] == "digits"


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, close: Callable[..., None]
) -> None:
    monkeypatch.setattr(build_module, "KEPT_ROWS", 20)
    one, other = build(60, batch_size=60), build(60, batch_size=batch_size)
    close(other.pool, one.pool, 1e-11)
    assert one.rows is not None and other.rows is not None and len(other.rows) == 20
    np.testing.assert_allclose(other.rows, one.rows, rtol=1e-6, atol=1e-6)


def test_rows_beyond_the_limit_are_evenly_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    every = build(60).rows
    monkeypatch.setattr(build_module, "KEPT_ROWS", 7)
    kept = build(60, batch_size=9).rows
    assert every is not None and kept is not None
    np.testing.assert_allclose(kept, every[[0, 8, 17, 25, 34, 42, 51]], rtol=1e-6, atol=1e-6)


def test_one_image_is_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="1 images"):
        build(1)


# files


def test_a_reference_comes_back_exactly(tmp_path: Path) -> None:
    built = build()
    path = tmp_path / "deeper" / "built.npz"
    assert write_reference(path, built) == path.with_suffix(".json")
    assert sorted(file.name for file in path.parent.iterdir()) == ["built.json", "built.npz"]
    back = read_reference(path)
    for one, other in ((back.pool, built.pool), (back.spatial, built.spatial)):
        assert one is not None and other is not None and one.count == other.count == 60
        assert np.array_equal(one.mean, other.mean) and np.array_equal(one.covariance, other.covariance)
    assert back.rows is not None and built.rows is not None and np.array_equal(back.rows, built.rows)
    assert (back.name, back.extractor, back.size, back.images) == ("built", "digits-cnn", (8, 8), None)
    sidecar = read_json(path.with_suffix(".json"), "")
    assert sidecar == back.record and sidecar["sha256"] == checksums.file_sha256(path)
    assert (sidecar["count"], sidecar["rows"], sidecar["resolution"]) == (60, 60, [8, 8])
    assert sidecar["dtype"]["mu"] == "float64" and sidecar["dtype"]["features"] == "float32"


def test_the_layout_is_the_adm_evaluators(tmp_path: Path) -> None:
    built = build()
    write_reference(tmp_path / "built.npz", built)
    with np.load(tmp_path / "built.npz", allow_pickle=False) as file:
        assert set(file.files) == {"mu", "sigma", "mu_s", "sigma_s", "features", "count"}
        assert np.array_equal(file["sigma"], built.pool.covariance) and file["mu_s"].shape == (112,)


def test_a_reference_of_an_unknown_extractor_is_not_written(tmp_path: Path, made_up: Callable[..., Reference]) -> None:
    with pytest.raises(InputError, match="extractor None"):
        write_reference(tmp_path / "a.npz", replace(made_up(10), extractor=None))
    with pytest.raises(InputError, match=r"\.npz"):
        write_reference(tmp_path / "a.npy", made_up(10))
    assert not list(tmp_path.iterdir())


def test_a_lost_sidecar_and_another_checksum_are_refused(tmp_path: Path, made_up: Callable[..., Reference]) -> None:
    path = tmp_path / "a.npz"
    write_reference(path, made_up(10, seed=0))
    before = checksums.file_sha256(path)
    sidecar = path.with_suffix(".json").read_text()
    write_reference(path, made_up(10, seed=1))
    path.with_suffix(".json").write_text(sidecar)  # as after a run that broke off between the two
    with pytest.raises(pins.ChecksumError) as caught:
        read_reference(path)
    assert before in str(caught.value) and checksums.file_sha256(path) in str(caught.value)
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"sidecar a\.json is missing"):
        read_reference(path)


@pytest.mark.parametrize("keep", [0, 10, 300, -30])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "a.npz", adm_arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.npz: no whole"):
        read_reference(path)


def test_an_adm_file_is_read(tmp_path: Path) -> None:
    arrays = adm_arrays()
    read = read_reference(save(tmp_path / "MADE.npz", arrays))
    assert (read.name, read.extractor, read.size, read.rows) == ("MADE", None, (8, 8), None)
    assert read.pool.count == 0 and read.pool.mean.dtype == np.float64
    assert np.array_equal(read.pool.covariance, arrays["sigma"])
    assert read.spatial is not None and np.array_equal(read.spatial.mean, arrays["mu_s"])
    assert read.images is not None and len(read.images) == 6
    assert np.array_equal(read.images[2].numpy(), arrays["arr_0"][2].transpose(2, 0, 1))
    del arrays["arr_0"], arrays["mu_s"], arrays["sigma_s"]
    bare = read_reference(save(tmp_path / "bare.npz", arrays))
    assert (bare.images, bare.spatial, bare.size) == (None, None, None)


def nan_at_the_end(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    changed = array.copy()
    changed.flat[-1] = np.nan
    return changed


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("sigma", None, "sigma is missing"),
        ("mu", None, "mu is missing"),
        ("mu_s", None, "mu_s is missing"),
        ("mu", lambda a: a.astype(int), "mu is int64"),
        ("sigma", lambda a: a.astype("U"), "sigma is <U"),
        ("sigma", lambda a: a[:-1], r"mu, sigma.*\(63, 64\)"),
        ("mu", lambda a: a[:, None], r"\(64, 1\)"),
        ("sigma", nan_at_the_end, "mu, sigma.*NaN"),
        ("mu_s", nan_at_the_end, "mu_s, sigma_s.*NaN"),
        ("sigma", lambda a: a + np.eye(64, k=1), "not symmetric"),
        ("arr_0", lambda a: a.astype(np.float32), "arr_0"),
        ("mu", lambda a: np.array([{}], dtype=object), "no whole"),
    ],
)
def test_arrays_that_are_no_reference_are_refused(tmp_path: Path, key: str, change: Any, message: str) -> None:
    arrays = adm_arrays()
    array = arrays.pop(key)
    if change is not None:
        arrays[key] = change(array)
    path = save(tmp_path / "a.npz", arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_reference(path)
    assert "a.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not JSON", "not JSON"),
        ("[]", "holds a JSON list"),
        ({"schema_version": 2}, "schema_version 2 is newer"),
        ({"extractor": None}, "extractor is None"),
        ({"resolution": [8]}, r"resolution is \[8\]"),
        ({"count": 11}, "10 images, its sidecar says 11"),
    ],
)
def test_an_unusable_sidecar_is_refused(
    tmp_path: Path, change: Any, message: str, made_up: Callable[..., Reference]
) -> None:
    path = tmp_path / "a.npz"
    sidecar = write_reference(path, made_up(10))
    if isinstance(change, str):
        sidecar.write_text(change)
    else:
        write_json(read_json(sidecar, "") | change, sidecar)
    with pytest.raises(InputError, match=message):
        read_reference(path)


@pytest.mark.parametrize("rows", [np.zeros((4, 3), np.float32), np.zeros((4, 5)), np.full((4, 5), np.nan, np.float32)])
def test_unusable_rows_are_refused(tmp_path: Path, rows: Any, made_up: Callable[..., Reference]) -> None:
    path = tmp_path / "a.npz"
    write_reference(path, replace(made_up(10), rows=rows))
    with pytest.raises(InputError, match="features"):
        read_reference(path)


# resolve


def test_a_ready_made_file_is_completed_by_the_manifest_and_pinned(root: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "data" / "MADE_8.npz", adm_arrays())
    by_name = resolve_reference("made", data_root=tmp_path / "data")
    assert (by_name.name, by_name.extractor, by_name.size) == ("made", "digits-cnn", (8, 8))
    assert by_name.spatial is not None and by_name.pool.count == by_name.spatial.count == 1797
    first = checksums.file_sha256(path)
    assert by_name.record["sha256"] == first and pins.read_pins()["made"].sha256 == first
    assert resolve_reference(path).name == "made"  # the file is known by its name
    save(path, adm_arrays(seed=1))
    for given_as in ("made", path):
        with pytest.raises(pins.ChecksumError) as caught:
            resolve_reference(given_as, data_root=tmp_path / "data")
        assert first in str(caught.value) and checksums.file_sha256(path) in str(caught.value)


def test_a_broken_first_file_is_not_pinned(root: Path) -> None:
    path = save(root / "statistics" / "MADE_8.npz", adm_arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    with pytest.raises(InputError, match="no whole"):
        resolve_reference("made")
    path.write_bytes(whole)
    assert resolve_reference("made").images is not None


def test_pins_and_statistics_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    save(tmp_path / "other" / "statistics" / "MADE_8.npz", adm_arrays())
    with pytest.raises(InputError, match="is not in"):
        resolve_reference("made")
    resolve_reference("made", root=tmp_path / "other")
    assert (tmp_path / "other" / "pins.json").is_file() and not (root / "pins.json").exists()


def test_a_built_reference_is_found_by_name(root: Path) -> None:
    write_reference(root / "statistics" / "built.npz", build())
    found = resolve_reference("built")
    assert (found.name, found.pool.count, found.record["dataset"]) == ("built", 60, "digits")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 50}, "images 50, built in the manifest has 60"),
        ({"split": "test"}, "split test, built in the manifest has all"),
        ({"extractor": "inception-v3-compat"}, "extractor inception-v3-compat, built in the manifest has digits-cnn"),
        ({"size": (16, 16)}, r"resolution \(16, 16\), built in the manifest has \(8, 8\)"),
        ({"dimensions": 5}, "5 features where digits-cnn has 64"),
    ],
)
def test_a_built_reference_of_something_else_is_refused(
    root: Path, change: dict[str, Any], message: str, made_up: Callable[..., Reference]
) -> None:
    built = made_up(60, d=5) if "dimensions" in change else build(change.get("images", 60))
    wrong = replace(
        built,
        record=built.record | {"split": change.get("split", "all")},
        extractor=change.get("extractor", "digits-cnn"),
        size=change.get("size", (8, 8)),
    )
    write_reference(root / "statistics" / "built.npz", wrong)
    with pytest.raises(InputError, match=message):
        resolve_reference("built")
    assert not (root / "pins.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu_s": None, "sigma_s": None}, "array mu_s is missing"),
        ({"arr_0": None}, "array arr_0 is missing"),
        ({"arr_0": np.zeros((6, 16, 16, 3), np.uint8)}, r"\(16, 16\), made in the manifest has \(8, 8\)"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "3 features where digits-cnn has 64"),
    ],
)
def test_a_ready_made_file_of_something_else_is_refused(root: Path, change: dict[str, Any], message: str) -> None:
    arrays = {key: array for key, array in (adm_arrays() | change).items() if array is not None}
    save(root / "statistics" / "MADE_8.npz", arrays)
    with pytest.raises(InputError, match=message):
        resolve_reference("made")
    assert not (root / "pins.json").exists()


def test_what_is_missing_comes_with_its_remedy(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"MADE_8\.npz is not in .*data; download https://example\.org/files"):
        resolve_reference("made", data_root=tmp_path / "data")
    with pytest.raises(InputError, match="python -m bench stats build built"):
        resolve_reference("built")
    with pytest.raises(InputError, match=r"nothing: no such file.*\(made, built\)"):
        resolve_reference("nothing")


# the committed statistics


def test_building_the_digits_again_gives_the_committed_numbers(close: Callable[..., None]) -> None:
    committed = resolve_reference("digits")
    again = build_reference(open_dataset("digits"), "digits-cnn", name="digits", record=RECORD)
    close(again.pool, committed.pool, 1e-9)
    assert again.spatial is not None and committed.spatial is not None
    close(again.spatial, committed.spatial, 1e-9)
    assert again.rows is not None and committed.rows is not None and len(committed.rows) == 1797
    np.testing.assert_allclose(again.rows, committed.rows, rtol=1e-6, atol=1e-6)
    assert committed.record["weights_sha256"] == checksums.file_sha256(classifiers.DIGITS.weights)
