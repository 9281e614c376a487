"""Tasks shared by processes: order, errors, and no process that outlives the one that started it."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.machine import task_pool
from bench.machine.task_pool import Task
from dydit import InputError
from dydit.config import check_lambda


def diamond(directory: Path) -> list[Task]:
    """Four tasks, one before two before one, given in the wrong order; each copies what it needs, and fails without."""
    (directory / "source").write_text("whole")
    needs = {"d": ("b", "c"), "b": ("a",), "c": ("a",), "a": ()}
    sources = {name: before[-1] if before else "source" for name, before in needs.items()}
    return [
        Task(name, functools.partial(shutil.copy, str(directory / sources[name]), str(directory / name)), needs[name])
        for name in needs
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_task_begins_when_what_it_needs_is_done(tmp_path: Path, processes: int) -> None:
    assert task_pool.run_tasks(diamond(tmp_path), processes, "diamond") == 4
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys([*"abcd", "source"], "whole")


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_ends_the_run_with_its_own_line(tmp_path: Path, processes: int) -> None:
    first, *_ = diamond(tmp_path)
    refused: Any = functools.partial(check_lambda, 2.0)
    with pytest.raises(InputError, match="lambda"):
        task_pool.run_tasks(
            [dataclasses.replace(first, needs=("refused",)), Task("refused", refused)], processes, "refused"
        )
    assert not (tmp_path / "d").exists()


def kill_own_process() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def test_a_killed_process_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a process was killed, or ran out of memory, .* at work: killed") as caught:
        task_pool.run_tasks([Task("killed", kill_own_process), Task("after", str, ("killed",))], 2, "killed")
    assert len(str(caught.value).splitlines()) == 1


def test_processes_have_one_thread_and_the_caller_keeps_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    asked: Any = [Task(name, functools.partial(os.getenv, name, "")) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    task_pool.run_tasks(asked, 2, "threads")
    assert capsys.readouterr().err.split() == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


ROOT = Path(__file__).parents[3]
SLEEPER = """
import functools, os, sys, time
from pathlib import Path
from bench.machine import Task, run_tasks

def sleep(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)
    return ""

if __name__ == "__main__":
    run_tasks([Task(name, functools.partial(sleep, name)) for name in sys.argv[1:]], 2, "asleep")
"""


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "asleep.py"
    script.write_text(SLEEPER)
    names = [tmp_path / "one", tmp_path / "two"]
    parent = subprocess.Popen([sys.executable, str(script), *map(str, names)], cwd=ROOT)
    try:
        wait_for(lambda: all(name.exists() and name.read_text() for name in names))
        children = [int(name.read_text()) for name in names]
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in children))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited a minute in vain"
        time.sleep(0.05)
