"""Directories of runs: one run at a time, the same run only, enough disk, and files that are whole."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.records import (
    check_disk,
    check_same_run,
    clear_write_errors,
    take_directory,
    whole_file,
)
from bench.records.run_directory import prepare_output
from dydit import InputError
from dydit.checkpoint.atomic import atomic_path, partial_path


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_output_directory_is_made_and_left_empty(tmp_path: Path, below: str) -> None:
    directory = prepare_output(str(tmp_path / "out" / below))
    assert directory.is_dir() and list(directory.iterdir()) == []
    assert prepare_output(directory) == directory


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_where_the_output_should_be_is_named(tmp_path: Path, below: str) -> None:
    file = tmp_path / "out"
    file.write_text("kept")
    with pytest.raises(InputError, match=f"{file} is a file"):
        prepare_output(file / below)
    assert file.read_text() == "kept"


def test_an_output_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not writable"):
        prepare_output(tmp_path / ("x" * 300))


def test_an_output_directory_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write anywhere
    with pytest.raises(InputError, match=r"not writable \(Permission denied\)"):
        prepare_output(tmp_path)


def test_atomic_path_replaces_whole_files_only(tmp_path: Path) -> None:
    target = tmp_path / "new" / "images.npz"
    with atomic_path(target) as partial:
        assert partial.parent == target.parent and partial.suffix == ".npz"
        np.savez(partial, x=np.arange(3))
        assert not target.exists()
    assert list(target.parent.iterdir()) == [target]

    whole = target.read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as partial:
        partial.write_bytes(whole[:10])
        raise KeyboardInterrupt
    assert target.read_bytes() == whole and list(target.parent.iterdir()) == [target]


def test_a_directory_has_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        take_directory(tmp_path, ()),
        pytest.raises(InputError, match="another run is writing"),
        take_directory(tmp_path, ()),
    ):
        pytest.fail("taken twice")
    with take_directory(tmp_path, ()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_removes_its_own_half_written_files_only(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    own = [partial_path(tmp_path / name, "0a1b2c3d") for name in ("log.csv", "units/000001.npz")]
    others = [partial_path(tmp_path / name, "0a1b2c3d") for name in ("run.json", "log.md", "units/000001.npy")]
    whole = [tmp_path / "log.csv", tmp_path / "units" / "000001.npz"]
    for path in (*own, *others, *whole):
        path.touch()
    with take_directory(tmp_path, ["log.csv", "units/*.npz", "absent/*.npz"]):
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([*others, *whole])


def test_one_file_of_a_directory_may_be_taken_alone(tmp_path: Path) -> None:
    half = partial_path(tmp_path / "b.npz", "0a1b2c3d")
    half.touch()
    with take_directory(tmp_path, ["a.npz"], "a"), take_directory(tmp_path, ["c.npz"], "c"):
        assert half.exists()
        with (
            pytest.raises(InputError, match="another run is writing a; wait"),
            take_directory(tmp_path, ["a.npz"], "a"),
        ):
            pytest.fail("taken twice")
    with pytest.raises(KeyboardInterrupt), take_directory(tmp_path, ["b.npz"], "b"):
        assert not half.exists()
        raise KeyboardInterrupt
    (tmp_path / ".a.lock").touch()  # as a run leaves it that was killed
    with take_directory(tmp_path, ["a.npz"], "a", wait=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_name_removes_all_half_written_files_and_no_others(tmp_path: Path) -> None:
    half = partial_path(tmp_path / "t.csv", "0a1b2c3d")
    others = [tmp_path / ".mine.partial.zip", tmp_path / ".t.partial.csv"]
    for path in (half, *others):
        path.touch()
    with take_directory(tmp_path):
        assert sorted(tmp_path.iterdir()) == sorted(others)


RUN = {"model": "DiT", "config": {"depth": 2, "heads": 3}, "seed": 0, "rates": [0.5, 0.5]}


def test_the_same_run_goes_on(tmp_path: Path) -> None:
    check_same_run(tmp_path, RUN, {**RUN, "config": dict(reversed(RUN["config"].items()))})  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 3}, "seed = 0, this one has 3"),
        ({"config": {"depth": 2, "heads": 4}}, "config.heads = 3, this one has 4"),
        ({"config": {"depth": 2}}, "config.heads = 3, this one has None"),
        ({"rates": None}, "rates = [0.5, 0.5], this one has None"),
        ({"new": True}, "new = None, this one has True"),
        ({"seed": 3, "model": "DyDiT"}, "model = DiT, this one has DyDiT"),
    ],
)
def test_the_first_difference_to_another_run_is_named(tmp_path: Path, changes: dict[str, Any], difference: str) -> None:
    message = f"output {tmp_path}: holds a run with {difference}; choose another directory"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_same_run(tmp_path, RUN, RUN | changes)


def test_a_run_must_fit_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check_disk(tmp_path, 2**30)
    with pytest.raises(InputError, match=r"the run writes 1\.5 GiB, the disk has 1 GiB free"):
        check_disk(tmp_path, 3 * 2**29)


def test_a_file_that_cannot_be_written_is_named_in_one_line_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("old")
    message = f"{path}: cannot be written (No space left on device); mend that and repeat the run, which goes on"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"), whole_file(path) as partial:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_of_torch_is_about_the_file_only_where_the_system_refused_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left"), clear_write_errors(tmp_path):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")  # as torch.save does while it closes its archive
    with pytest.raises(RuntimeError, match="shape"), clear_write_errors(tmp_path):
        raise RuntimeError("shape mismatch")
