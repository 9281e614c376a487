"""Processes: the same images from one, two and three of them, and after `kill -9`."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.data import shards
from bench.generation.generate import generate_images
from bench.generation.job import GenerationOptions
from bench.machine.process_group import ProcessGroup
from bench.studies.samples import committed_file
from dydit import InputError

REPEATS = int(os.environ.get("DYDIT_KILL_REPEATS", "2"))
"""How often in a row a run is killed."""


def options(out: Path, **changes: Any) -> GenerationOptions:
    checkpoint = str(committed_file(0.5))
    return GenerationOptions(**{"checkpoint": checkpoint, "out": out, "images": 64, "steps": 3, "unit": 8, **changes})


def arguments(wanted: GenerationOptions) -> list[str]:
    """The command line that asks for these options."""
    given = {field.name: getattr(wanted, field.name) for field in dataclasses.fields(wanted)}
    changed = {field.name for field in dataclasses.fields(wanted) if given[field.name] != field.default}
    return ["generate", *(text for name in sorted(changed) for text in (f"--{name}", str(given[name])))]


def load(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(directory / "samples.npz") as file:
        return file["arr_0"], file["arr_1"]


def program(wanted: GenerationOptions) -> str:
    """What a process runs that makes these images."""
    return f"from bench import cli; cli.main({arguments(wanted)!r})"


def test_one_two_and_three_processes_make_the_same_images(tmp_path: Path, together: Any) -> None:
    """Two by torchrun itself, three as it would start them."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bench"]
    two = subprocess.Popen(
        [*launch, *arguments(options(tmp_path / "2"))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert generate_images(options(tmp_path / "1")) == tmp_path / "1" / "samples.npz"
    assert [status for status, _ in together(program(options(tmp_path / "3")), 3)] == [0, 0, 0]
    stdout, stderr = two.communicate(timeout=60)
    assert two.returncode == 0, stderr
    assert stdout.count("64 images in") == 1 and stderr.count("8 to make; processes: 2") == 1
    images, labels = load(tmp_path / "1")
    identity = shards.read_manifest(tmp_path / "1").identity
    for name in ("2", "3"):
        assert np.array_equal(load(tmp_path / name)[0], images) and np.array_equal(load(tmp_path / name)[1], labels)
        assert shards.read_manifest(tmp_path / name).identity == identity


def test_a_run_of_one_process_is_finished_by_two(tmp_path: Path, together: Any) -> None:
    assert generate_images(options(tmp_path / "one"))
    images, _ = load(tmp_path / "one")
    kept = {unit: shards.unit_path(tmp_path / "one", unit).stat().st_mtime_ns for unit in (0, 3, 4, 7)}
    for unit in (1, 2, 5, 6):
        shards.unit_path(tmp_path / "one", unit).unlink()
    done = together(program(options(tmp_path / "one")), 2)
    assert [status for status, _ in done] == [0, 0]
    assert "4 of 8 units are there, 4 to make; processes: 2" in done[0][1] and done[1][1] == ""
    assert np.array_equal(load(tmp_path / "one")[0], images)
    assert all(shards.unit_path(tmp_path / "one", unit).stat().st_mtime_ns == time for unit, time in kept.items())


def test_more_processes_than_units_are_idle(tmp_path: Path, together: Any) -> None:
    assert [status for status, _ in together(program(options(tmp_path / "out", images=4)), 2)] == [0, 0]
    assert len(load(tmp_path / "out")[0]) == 4


def test_a_process_that_cannot_begin_stops_all_with_one_line(tmp_path: Path, together: Any) -> None:
    done = together(program(options(tmp_path / "out", checkpoint="nowhere.safetensors")), 2)
    assert [status for status, _ in done] == [2, 2]
    assert done[0][1].startswith("error: nowhere.safetensors: no such checkpoint") and done[1][1] == ""


def test_a_killed_run_goes_on_where_it_was_and_makes_the_same_images(tmp_path: Path, start: Any) -> None:
    changes = {"unit": 4, "steps": 10}
    generate_images(options(tmp_path / "whole", **changes))
    images, labels = load(tmp_path / "whole")
    for number in range(REPEATS):
        wanted = options(tmp_path / str(number), **changes)
        process = start(program(wanted), tmp_path / "log")
        deadline = time.monotonic() + 60
        while not list(wanted.out.glob("units/[0-9]*")):
            assert time.monotonic() < deadline and process.is_alive(), (tmp_path / "log").read_text()
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.join()
        there = {path: path.stat().st_mtime_ns for path in wanted.out.glob("units/[0-9]*")}
        missing = shards.missing_units(wanted.out, shards.read_manifest(wanted.out), read=True)
        assert len(there) + len(missing) == 16  # what is there is whole
        generate_images(wanted)
        assert np.array_equal(load(wanted.out)[0], images) and np.array_equal(load(wanted.out)[1], labels)
        assert all(path.stat().st_mtime_ns == time for path, time in there.items())  # none was made twice
        assert not list(wanted.out.rglob(".*"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ProcessGroup(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, ProcessGroup(3, 4, 1)),
        ({"RANK": "4", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, None),
        ({"RANK": "x", "WORLD_SIZE": "4"}, None),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, None),
    ],
)
def test_the_environment_names_the_process(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: ProcessGroup | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        with pytest.raises(InputError, match="torchrun"):
            ProcessGroup.from_environment()
    else:
        assert ProcessGroup.from_environment() == expected


def test_processes_that_cannot_meet_are_told_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="torchrun"), ProcessGroup.from_environment().connected():
        pytest.fail("connected to nobody")


def test_a_process_alone_agrees_with_itself() -> None:
    world = ProcessGroup()
    with world.connected():
        assert world.first
        assert world.agree(lambda: 3) == world.share(3) == 3
        world.wait()


def test_a_process_that_dies_ends_the_others_in_one_line(together: Any) -> None:
    program = """
import os
from bench import cli
from bench.commands.measure import flops
from bench.machine.process_group import ProcessGroup

def run(_):
    world = ProcessGroup.from_environment()
    with world.connected():
        world.wait()
        if not world.first:
            os._exit(9)
        world.wait()

flops.run = run
cli.main(["flops"])
"""
    (status, errors), (other, _) = together(program, 2)
    assert (status, other) == (2, 9)
    (line,) = [line for line in errors.splitlines() if not line.startswith("[")]  # torch's own warnings
    assert line.startswith("error: process 0: another process of the run ended or cannot be reached")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ("wanted += ['--seed', str(rank)]", "option.seed is 0 in one and 1 in the other"),
        # The same path, which holds another file on another node.
        ("job.checkpoint.load_model = lambda _, **options: load(files[rank], **options)", "job.weights_sha256 is "),
        ("environment.PACKAGES = ('numpy', 'torchvision')[rank:]", "version.numpy is "),
    ],
)
def test_processes_that_were_given_different_jobs_do_not_begin(
    tmp_path: Path, together: Any, changes: str, told: str
) -> None:
    code = f"""
import os
from bench import cli
from bench.generation import job
from bench.records import environment
rank, load = int(os.environ["RANK"]), job.checkpoint.load_model
wanted, files = {arguments(options(tmp_path / "out"))!r}, {[str(committed_file(target)) for target in (0.5, 0.7)]!r}
{changes}
cli.main(wanted)
"""
    (status, error), other = together(code, 2)
    assert (status, other) == (2, (2, "")), error
    assert error.startswith("error: processes 0 and 1 were not given the same: ") and len(error.splitlines()) == 1
    assert told in error and not list((tmp_path / "out").iterdir())


def test_a_directory_that_is_not_shared_is_refused_before_the_first_unit(tmp_path: Path, together: Any) -> None:
    wanted = arguments(options(tmp_path / "out"))
    code = f"""
import os
from bench import cli
from bench.data import shards
if os.environ["RANK"] == "1":
    shards.find_manifest = lambda directory: None
cli.main({wanted!r})
"""
    (status, error), other = together(code, 2)
    assert (status, other) == (2, (2, ""))
    assert "is not one directory for all processes" in error and not (tmp_path / "out" / "units").exists()


def test_processes_that_crashed_are_started_once_more(tmp_path: Path, together: Callable[..., Any]) -> None:
    code = f"""
import os
if not os.path.exists({str(tmp_path / "there")!r}):
    open({str(tmp_path / "there")!r}, "w").close()
    os.abort()
"""
    with pytest.warns(UserWarning, match="a process crashed"):
        assert together(code, 1) == [(0, "")]
    with pytest.warns(UserWarning, match="a process crashed"):
        assert together("import os; os.abort()", 1)[0][0] == -signal.SIGABRT
