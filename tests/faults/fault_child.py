"""A command in a process of its own, with a fault: what the process does before the command begins.

Nothing in the project knows of faults. Clocks stand still here, so that equal runs leave equal bytes.
"""

from __future__ import annotations

import ctypes
import io
import itertools
import os
import resource
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAUSED, GO = "paused", "go"
"""Files beside the directory of the command: it waits at its pause; it may go on."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")


def run(line: list[str], directory: str, setup: str, plan: dict[str, Any], log: str) -> None:
    """Run a command line in a directory and exit with its status; what it prints on standard error goes to `log`.

    Args:
        line: of `python -m bench`.
        directory: the working directory, below which the command writes.
        setup: Python code that makes the command small.
        plan: the fault: `kill` or `pause` at the change of this number (a file of the name `counted` and the rank tells
            how many there are); `bytes`, the size that no file may exceed; `bound`, where permissions hold for root.
        log: the file.
    """
    os.chdir(directory)
    sys.argv = ["dydit-bench", *line]
    sys.stderr = told = io.StringIO()  # a file would fall under the limit of sizes
    _stand_still()
    exec(setup, {})
    if plan.get("bound"):
        _bind()
    changes = _watch(Path(directory), plan)
    if "bytes" in plan:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan["bytes"], resource.RLIM_INFINITY))
    status = _status(line)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Path(log).write_text(told.getvalue(), encoding="utf-8")
    Path(log).with_suffix(".status").write_text(str(status))
    if "counted" in plan:
        Path(f"{plan['counted']}{os.environ.get('RANK', 0)}").write_text(str(next(changes)))
    os._exit(status)


def _status(line: list[str]) -> int:
    from bench import cli

    try:
        cli.main(line)
    except SystemExit as error:
        return int(error.code or 0) if not isinstance(error.code, str) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _watch(directory: Path, plan: dict[str, Any]) -> Any:
    """Count the changes that are made below `directory`, and let the planned one happen to nobody."""
    counter = itertools.count()
    places: dict[int, Callable[[], None]] = {}
    if "kill" in plan:
        places[plan["kill"]] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    if "pause" in plan:
        places[plan["pause"]] = lambda: _wait(directory.parent)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, (str, os.PathLike)) and Path(os.path.abspath(path)).is_relative_to(directory):
            places.get(next(counter), lambda: None)()

    sys.addaudithook(hook)
    return counter


def _wait(folder: Path) -> None:
    (folder / PAUSED).touch()
    while not (folder / GO).exists():
        time.sleep(0.005)


def _stand_still() -> None:
    """Clocks whose every call is an eighth of a second later, one moment of the day, one commit, and one thread."""
    import datetime

    import torch
    from threadpoolctl import threadpool_limits

    from bench.records import environment
    from bench.reproduction import requirements

    ticks = itertools.count(1)
    for name in ("perf_counter", "monotonic"):
        setattr(time, name, lambda: next(ticks) / 8)

    class Moment(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return datetime.datetime(2026, 1, 1, tzinfo=tz)

    environment.datetime = Moment  # type: ignore[misc]
    environment._checkout = lambda _: {"commit": "0" * 40, "dirty": False}  # it would ask git, which takes a while
    requirements.free_bytes = lambda _: 2**40
    requirements.shutil = types.SimpleNamespace(disk_usage=lambda _: types.SimpleNamespace(free=2**40))
    torch.set_num_threads(1)
    threadpool_limits(1)


def _bind() -> None:
    """Give up what lets root write where nobody may."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")
