"""Directories of generated images: whole or missing, never in between."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data import shards
from bench.data.shards import Manifest
from bench.generation.export import assemble, discard_assembled, write_pngs
from bench.records import take_directory
from dydit.errors import InputError

IDENTITY = {"model": "DiT", "config": {"depth": 2, "heads": 3}, "seed": 0, "scale": 1.5}


def manifest(count: int = 11, unit: int = 4, shape: tuple[int, int, int] = (3, 5, 1), **changes: Any) -> Manifest:
    return Manifest(count, unit, shape, IDENTITY | changes, {"commit": None})


def content(wanted: Manifest) -> tuple[shards.Images, shards.Labels]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (wanted.count, *wanted.shape), dtype=np.uint8)
    return images, rng.integers(0, 1000, wanted.count)


def fill(directory: Path, wanted: Manifest) -> tuple[shards.Images, shards.Labels]:
    images, labels = content(wanted)
    shards.write_manifest(directory, wanted)
    for unit in range(wanted.units):
        rows = wanted.indices(unit)
        shards.write_unit(directory, wanted, unit, images[rows.start : rows.stop], labels[rows.start : rows.stop])
    return images, labels


@given(count=st.integers(1, 200), unit=st.integers(1, 80))
def test_units_deal_every_index_once_in_order(count: int, unit: int) -> None:
    wanted = manifest(count, unit)
    dealt = [list(wanted.indices(number)) for number in range(wanted.units)]
    assert [index for part in dealt for index in part] == list(range(count))
    assert all(len(part) == unit for part in dealt[:-1]) and 1 <= len(dealt[-1]) <= unit


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    wanted = manifest()
    images, labels = fill(tmp_path, wanted)
    assert shards.read_manifest(tmp_path) == wanted
    assert shards.missing_units(tmp_path, wanted) == shards.missing_units(tmp_path, wanted, read=True) == []
    parts = [shards.load_unit(tmp_path, wanted, unit) for unit in range(3)]
    assert np.array_equal(np.concatenate([part for part, _ in parts]), images)
    assert np.array_equal(np.concatenate([part for _, part in parts]), labels)
    assert sorted(path.name for path in (tmp_path / "units").iterdir()) == ["000000.npz", "000001.npz", "000002.npz"]
    written = json.loads((tmp_path / shards.MANIFEST).read_text())
    assert list(written) == ["schema_version", "count", "unit", "shape", "identity", "record", "content_sha256"]


@given(cut=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_unit_cut_short_anywhere_is_missing(tmp_path: Path, cut: int) -> None:
    wanted = manifest()
    fill(tmp_path, wanted)
    path = shards.unit_path(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    assert shards.missing_units(tmp_path, wanted) == [1]
    with pytest.raises(InputError, match=r"000001\.npz.*repeat"):
        shards.load_unit(tmp_path, wanted, 1)


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_found_by_reading_or_changes_nothing(tmp_path: Path, place: int, bit: int) -> None:
    wanted = manifest()
    images, labels = fill(tmp_path, wanted)
    path = shards.unit_path(tmp_path, 1)
    damaged = bytearray(path.read_bytes())
    damaged[place % len(damaged)] ^= 1 << bit
    path.write_bytes(bytes(damaged))
    if shards.missing_units(tmp_path, wanted, read=True) == []:  # a date, say, or an attribute of the archive
        own, names = shards.load_unit(tmp_path, wanted, 1)
        assert np.array_equal(own, images[4:8]) and np.array_equal(names, labels[4:8])


def test_flipped_pixels_are_missing(tmp_path: Path) -> None:
    wanted = manifest()
    images, _ = fill(tmp_path, wanted)
    path = shards.unit_path(tmp_path, 1)
    pixels = images[4:8].tobytes()
    assert path.read_bytes().count(pixels) == 1
    path.write_bytes(path.read_bytes().replace(pixels, pixels[::-1]))
    assert shards.missing_units(tmp_path, wanted, read=True) == [1]


def test_a_unit_of_other_shapes_is_missing(tmp_path: Path) -> None:
    fill(tmp_path, manifest(count=10))
    assert shards.missing_units(tmp_path, manifest(count=11)) == [2]  # the last one was shorter
    assert shards.missing_units(tmp_path, manifest(count=13)) == [2, 3]
    assert shards.missing_units(tmp_path, manifest(count=10, shape=(5, 3, 1))) == [0, 1, 2]
    path = shards.unit_path(tmp_path, 0)
    np.savez(path, images=np.zeros((4, 3, 5, 1)), labels=np.zeros(4, dtype=np.int64))
    assert shards.missing_units(tmp_path, manifest(count=10)) == [0]
    np.savez(path, images=np.zeros((4, 3, 5, 1), dtype=np.uint8))
    assert shards.missing_units(tmp_path, manifest(count=10)) == [0]


def test_only_what_the_manifest_says_is_written(tmp_path: Path) -> None:
    wanted = manifest()
    images, labels = content(wanted)
    for own, names in (
        (images[:3], labels[:4]),
        (images[:4], labels[:3]),
        (images[:4].astype(np.int16), labels[:4]),
        (images[:4], labels[:4].astype(np.int32)),
    ):
        with pytest.raises(InputError, match="the manifest says"):
            shards.write_unit(tmp_path, wanted, 0, own, names)
    assert not (tmp_path / "units").exists()


def test_a_full_disk_leaves_no_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    wanted = manifest()
    images, labels = content(wanted)
    with pytest.raises(InputError, match=r"000000\.npz.*No space left"):
        shards.write_unit(tmp_path, wanted, 0, images[:4], labels[:4])
    assert list((tmp_path / "units").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 3}, "seed = 0, this one has 3"),
        ({"config": {"depth": 2, "heads": 4}}, "config.heads = 3, this one has 4"),
        ({"vae": "new"}, "vae = None, this one has new"),
        ({"unit": 8}, "unit = 4, this one has 8"),
        ({"shape": (3, 5, 3)}, "shape = [3, 5, 1], this one has [3, 5, 3]"),
        ({"count": 10}, "images = 11, this one has 10"),
        ({"count": 10, "seed": 3}, "seed = 0, this one has 3"),
    ],
)
def test_another_run_does_not_continue_the_one_that_is_there(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    with pytest.raises(
        InputError, match=re.escape(f"output {tmp_path}: holds a run with {difference}; choose another")
    ):
        manifest(**changes).check_continues(manifest(), tmp_path)


def test_the_same_run_with_as_many_or_more_images_continues_it(tmp_path: Path) -> None:
    for count in (11, 12):
        manifest(count=count).check_continues(manifest(count=11), tmp_path)


def test_a_manifest_is_found_where_there_is_a_run(tmp_path: Path) -> None:
    assert shards.find_manifest(tmp_path) is None
    fill(tmp_path, manifest())
    assert shards.find_manifest(tmp_path) == manifest()
    (tmp_path / shards.MANIFEST).unlink()
    with pytest.raises(InputError, match=r"holds units without manifest\.json"):
        shards.find_manifest(tmp_path)


def manifest_text(**changes: object) -> str:
    whole = {"schema_version": 1, "count": 4, "unit": 1, "shape": [1, 1, 1], "identity": {}, "record": {}}
    return json.dumps(whole | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "bench generate"),
        ("{", "not JSON"),
        ("[]", "holds a JSON list"),
        (manifest_text(count=0), "count is '0'; it must be a whole number from 1 to 10,000,000"),
        (manifest_text(count=10**12), "count is '1000000000000'"),
        (manifest_text(count=8.7), "count is '8.7'"),
        (manifest_text(count=True), "count is 'True'"),
        (manifest_text().replace("4", "1e999"), "the number 1e999"),
        (manifest_text(unit=10**9), "unit is '1000000000'"),
        (manifest_text(shape=[1, 10**9, 1]), "width is"),
        (manifest_text(schema_version="9"), "schema_version is '9'"),
        ('{"schema_version": 1, "schema_version": 1}', "the key 'schema_version' twice"),
        ('{"schema_version": 1, "count": 4, "unit": 1, "shape": [1, 1], "identity": {}, "record": {}}', "not a man"),
        ('{"schema_version": 2}', "newer than 1"),
    ],
)
def test_a_directory_without_a_usable_manifest_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / shards.MANIFEST).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        shards.read_manifest(tmp_path)
    assert str(tmp_path / shards.MANIFEST) in str(caught.value)


def test_the_assembled_file_is_the_adm_layout_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    wanted = manifest(count=70, unit=16, shape=(4, 4, 3))
    images, labels = fill(tmp_path, wanted)
    path = assemble(tmp_path, wanted)
    assert path == tmp_path / "samples.npz"
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == {"arr_0", "arr_1"}
        assert file["arr_0"].dtype == np.uint8 and np.array_equal(file["arr_0"], images)
        assert file["arr_1"].dtype == np.int64 and np.array_equal(file["arr_1"], labels)
    first = path.read_bytes()
    assert assemble(tmp_path, wanted).read_bytes() == first


def test_assembling_takes_as_much_memory_for_many_units_as_for_few(tmp_path: Path) -> None:
    peaks = []
    for units in (1, 6, 24):  # the first imports what the preview needs
        wanted = manifest(count=64 * units, unit=64, shape=(64, 64, 1))
        fill(tmp_path / str(units), wanted)
        tracemalloc.start()
        assemble(tmp_path / str(units), wanted)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1] < 24 * 64**3 / 3


def test_assembling_needs_every_unit(tmp_path: Path) -> None:
    wanted = manifest()
    fill(tmp_path, wanted)
    shards.unit_path(tmp_path, 2).unlink()
    with pytest.raises(InputError, match=r"000002\.npz"):
        assemble(tmp_path, wanted)
    assert not (tmp_path / "samples.npz").exists() and not list(tmp_path.glob(".samples*"))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_preview_shows_the_first_images_in_rows_of_eight(tmp_path: Path, channels: int) -> None:
    wanted = manifest(count=100, unit=30, shape=(4, 4, channels))
    images, _ = fill(tmp_path, wanted)
    assemble(tmp_path, wanted)
    grid = np.asarray(Image.open(tmp_path / "preview.png"))
    assert grid.shape == (8 * 6 + 2, 8 * 6 + 2, 3)
    for index in (0, 7, 8, 63):
        row, column = divmod(index, 8)
        shown = grid[2 + 6 * row : 6 + 6 * row, 2 + 6 * column : 6 + 6 * column]
        assert np.array_equal(shown, np.broadcast_to(images[index], (4, 4, 3)))


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_hold_the_images_and_are_written_once(tmp_path: Path, channels: int) -> None:
    wanted = manifest(shape=(4, 4, channels))
    images, _ = fill(tmp_path, wanted)
    for unit in range(wanted.units):
        write_pngs(tmp_path, wanted, unit)
    paths = sorted((tmp_path / "png").iterdir())
    assert [path.name for path in paths] == [f"{index:06d}.png" for index in range(11)]
    for path, image in zip(paths, images, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)).reshape(4, 4, channels), image)
    before = [path.stat().st_mtime_ns for path in paths]
    changed, whole = paths[4], paths[4].read_bytes()
    changed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # no reader of pictures looks at the last checksum
    paths[5].unlink()
    write_pngs(tmp_path, wanted, 1)
    assert paths[5].exists() and changed.read_bytes() == whole
    assert [path.stat().st_mtime_ns for path in paths if path not in paths[4:6]] == before[:4] + before[6:]


def test_leftovers_of_a_killed_run_go_and_all_else_stays(tmp_path: Path) -> None:
    wanted = manifest()
    fill(tmp_path, wanted)
    assemble(tmp_path, wanted)
    write_pngs(tmp_path, wanted, 0)
    (tmp_path / ".run.1234.partial.json").touch()  # of something else
    kept = sorted(tmp_path.rglob("*"))
    for name in (
        ".manifest.0a1b2c3d.partial.json",
        "units/.000001.0a1b2c3d.partial.npz",
        ".samples.0a1b2c3d.partial.npz",
        ".preview.0a1b2c3d.partial.png",
        "png/.000001.0a1b2c3d.partial.png",
    ):
        (tmp_path / name).write_bytes(b"half")
    with take_directory(tmp_path, shards.FILES):
        assert sorted(tmp_path.rglob("*")) == kept


def test_the_bytes_to_write_are_those_that_a_run_writes(tmp_path: Path) -> None:
    wanted = manifest(count=40, unit=16, shape=(32, 32, 3))
    promised = shards.bytes_to_write(wanted, [0, 1, 2], png=False)
    fill(tmp_path, wanted)
    assemble(tmp_path, wanted)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.npz"))
    assert promised == pytest.approx(written, rel=0.05)
    partly = promised - shards.bytes_to_write(wanted, [1, 2], png=False)
    assert partly == 16 * (32 * 32 * 3 + 8)
    assert shards.bytes_to_write(wanted, [], png=True) == 2 * 40 * (32 * 32 * 3 + 8)


def test_a_manifest_that_grew_discards_what_was_assembled(tmp_path: Path) -> None:
    wanted = manifest()
    fill(tmp_path, wanted)
    assemble(tmp_path, wanted)
    shards.write_manifest(tmp_path, dataclasses.replace(wanted, count=20))
    discard_assembled(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [shards.MANIFEST, "units"]
