"""Shipped data are found in a checkout and in an installed copy, and an installed copy is never written to."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from bench.quality.references import manifest, pins
from bench.quality.references.manifest import load_manifest
from bench.records import environment, installed, places, portable, shipped_data, user_data


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of an installed copy, in place of this checkout's."""
    root = tmp_path / "lib" / "site-packages"
    (root / "bench" / "reference_stats" / "statistics").mkdir(parents=True)
    monkeypatch.setattr(places, "PACKAGE", root / "bench")
    monkeypatch.setattr(places, "ROOT", root)
    monkeypatch.setattr(environment, "ROOT", root)
    monkeypatch.setattr(manifest, "ROOT", shipped_data())
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return root


def test_a_checkout_keeps_the_data_beside_the_packages() -> None:
    assert not installed()
    assert Path(__file__).parents[3] == places.ROOT
    assert shipped_data() == places.ROOT / "reference_stats"
    assert manifest.chosen_root() == shipped_data()


def test_an_installed_copy_has_the_data_inside_of_bench(site_packages: Path) -> None:
    assert installed()
    assert shipped_data() == site_packages / "bench" / "reference_stats"
    assert portable(f"{shipped_data()}/paper") == "site-packages/bench/reference_stats/paper"


def test_an_installed_copy_keeps_pins_and_statistics_with_the_user(site_packages: Path, tmp_path: Path) -> None:
    entries = load_manifest(Path(__file__).parents[3] / "reference_stats" / "manifest.toml")
    entry = entries["cifar10"]
    assert entry.sha256 is None
    file = tmp_path / entry.file
    file.write_bytes(b"1")
    before = sorted(site_packages.rglob("*"))
    pins.pin(entry, file, "a" * 64)
    assert sorted(site_packages.rglob("*")) == before
    assert (user_data() / "pins.json").is_file() and pins.known_sha256(entry) == "a" * 64
    assert [place.parent for place in entry.places()] == [
        user_data() / "statistics",
        shipped_data() / "statistics",
    ]
    assert manifest.chosen_root(tmp_path) == tmp_path
    assert f"into {portable(str(user_data()))}/statistics" in entries["imagenet-256"].remedy()


def test_an_installed_copy_records_its_version(site_packages: Path) -> None:
    record = environment.environment_record(command=[])
    assert record["commit"] == importlib.metadata.version("dydit-bench") and record["dirty"] is None
