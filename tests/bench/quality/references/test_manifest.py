"""The manifest names every reference once and completely; checksums recorded at first use hold afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.data.sets.catalogue import DATASETS
from bench.quality.features import extractors
from bench.quality.references import manifest, pins
from bench.quality.references.manifest import Entry
from bench.quality.references.pins import Pin
from bench.records import checksums
from dydit.errors import InputError

ENTRY = """
[one]
title = "One"
dataset = "digits"
split = "all"
source = "scikit-learn"
preprocessing = "native"
images = 10
extractor = "digits-cnn"
"""


def load(tmp_path: Path, text: str) -> dict[str, Entry]:
    path = tmp_path / "manifest.toml"
    path.write_text("schema_version = 1\n" + text)
    return manifest.load_manifest(path)


def test_the_manifest_lists_the_references_of_the_suite() -> None:
    entries = manifest.load_manifest()
    ready_made = [name for name, entry in entries.items() if entry.downloaded]
    assert ready_made == ["imagenet-64", "imagenet-128", "imagenet-256", "imagenet-512"]
    for name in ready_made:
        assert entries[name].images == 1_281_167 and entries[name].source.endswith(entries[name].file)
        assert f"/{entries[name].resolution}/" in entries[name].source
        assert entries[name].keys == ("mu", "sigma", "mu_s", "sigma_s", "arr_0")
    assert [name for name in entries if name not in ready_made] == [name for name in DATASETS if name != "imagenet"]


@pytest.mark.parametrize("entry", manifest.load_manifest().values(), ids=lambda entry: entry.name)
def test_the_manifest_agrees_with_the_data_sets(entry: Entry) -> None:
    data = DATASETS[entry.dataset]
    assert entry.images == data.splits[entry.split] and entry.extractor in extractors.EXTRACTORS
    assert entry.preprocessing == data.preprocessing(entry.resolution)
    if not entry.downloaded:
        assert (entry.resolution, entry.source) == (data.resolution, data.hub_id or "sklearn.datasets.load_digits")


def test_a_reference_without_keys_is_built(tmp_path: Path) -> None:
    entry = load(tmp_path, ENTRY)["one"]
    assert not entry.downloaded and entry.file == "one.npz" and entry.resolution is None and entry.sha256 is None
    assert "stats build one" in entry.remedy()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "not TOML"),
        ("one = 1", "1 is no table"),
        (ENTRY + 'colour = "red"', "unknown key colour"),
        (ENTRY.replace('"One"', "3"), r"title = 3; it must be of type str"),
        (ENTRY.replace("10", "true"), "images = True"),
        (ENTRY.replace('split = "all"', ""), "split is missing"),
        (ENTRY.replace('"scikit-learn"', '""'), "source is missing or empty"),
        (ENTRY.replace("native", "squash"), "squash.*native, adm-centre-crop"),
        (ENTRY.replace("native", "adm-centre-crop"), "resolution is missing"),
        (ENTRY.replace("10", "1"), "images = 1"),
        (ENTRY + "resolution = 0", "resolution = 0"),
        (ENTRY + 'sha256 = "12ab"', "64 lower-case"),
        (ENTRY + 'keys = ["mu"]', "keys"),
        (ENTRY.replace("scikit-learn", "https://example.org/a.npz"), "keys"),
        (ENTRY.replace("scikit-learn", "https://example.org/a.npz") + 'keys = ["mean"]', "mean"),
        (ENTRY + ENTRY.replace("one", "two").replace("scikit-learn", "https://a/one.npz") + 'keys = ["mu"]', "two ref"),
    ],
)
def test_a_wrong_manifest_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, text)
    assert "manifest.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_manifest_of_another_schema_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    with pytest.raises(InputError, match="cannot be read"):
        manifest.load_manifest(path)
    path.write_text("schema_version = 2")
    with pytest.raises(InputError, match="schema_version 2 is newer"):
        manifest.load_manifest(path)


def entry(sha256: str | None = None) -> Entry:
    return Entry("one", "One", "digits", "all", "scikit-learn", "native", 10, "digits-cnn", sha256=sha256)


def test_the_first_checksum_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "one.npz"
    file.write_bytes(b"12345")
    pins.compare(entry(), file, "a" * 64, tmp_path)
    assert pins.known_sha256(entry(), tmp_path) is None
    pins.pin(entry(), file, "a" * 64, tmp_path)
    pin = pins.read_pins(tmp_path)["one"]
    assert (pin.sha256, pin.size) == ("a" * 64, 5) and len(pin.first_used) == len("2025-01-31")
    pins.pin(entry(), file, "b" * 64, tmp_path)
    assert pins.known_sha256(entry(), tmp_path) == "a" * 64
    with pytest.raises(pins.ChecksumError, match=f"{'b' * 64}, pins.json .*{'a' * 64}"):
        pins.compare(entry(), file, "b" * 64, tmp_path)
    pins.renew(entry(), file, "b" * 64, tmp_path)
    pins.compare(entry(), file, "b" * 64, tmp_path)


def test_a_checksum_of_the_manifest_needs_no_pin(tmp_path: Path) -> None:
    known = entry("c" * 64)
    for record in (pins.pin, pins.renew):
        record(known, tmp_path / "one.npz", "a" * 64, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(pins.ChecksumError, match=f"{'a' * 64}, the manifest has {'c' * 64}"):
        pins.compare(known, tmp_path / "one.npz", "a" * 64, tmp_path)


def test_pins_of_the_repository_hold_in_every_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    monkeypatch.setattr(manifest, "ROOT", home)
    (tmp_path / "one.npz").write_bytes(b"1")
    pins.pin(entry(), tmp_path / "one.npz", "a" * 64)
    assert pins.known_sha256(entry(), other) == "a" * 64
    places = [home / "statistics" / "one.npz", tmp_path / "one.npz"]
    assert entry().places(tmp_path) == places == entry().places(tmp_path, home)
    assert entry().places(None, other) == [other / "statistics" / "one.npz", places[0]]
    assert entry().find(tmp_path, other) == tmp_path / "one.npz" and entry().find(other) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema_version": "2", "pins": {}}',
        '{"schema_version": 1}',
        '{"schema_version": 1, "pins": {"a": {}}}',
    ],
)
def test_broken_pins_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pins.json").write_text(content)
    with pytest.raises(
        InputError, match=r"pins\.json: (not a record of checksums|not JSON|holds a JSON list|schema_version)"
    ):
        pins.read_pins(tmp_path)


def test_pins_are_readable_records(tmp_path: Path) -> None:
    (tmp_path / "one.npz").write_bytes(b"1")
    for name in ("b", "a"):
        named = Entry(name, "One", "digits", "all", "scikit-learn", "native", 10, "digits-cnn")
        pins.pin(named, tmp_path / "one.npz", "a" * 64, tmp_path)
    record = json.loads((tmp_path / "pins.json").read_text())
    assert list(record["pins"]) == ["a", "b"] and Pin(**record["pins"]["a"]).size == 1


def test_a_root_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bench.quality.references.pins.write_json", refuse)  # root may write anywhere
    (tmp_path / "one.npz").write_bytes(b"1")
    pins.pin(entry(), tmp_path / "one.npz", "a" * 64, tmp_path)
    assert "one: its checksum is not recorded" in capsys.readouterr().err


def test_a_large_file_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.npz"
    path.write_bytes(b"12345")
    assert pins.digest(path) == checksums.file_sha256(path) and not capsys.readouterr().err
    monkeypatch.setattr(pins, "_LARGE", 4)
    assert pins.digest(path) == checksums.file_sha256(path)
    assert "one.npz: taking the checksum" in capsys.readouterr().err
