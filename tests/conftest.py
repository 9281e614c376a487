"""Processes that work together, for every test that wants some."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from bench.machine import progress

IMPORTED = [
    "bench.cli",
    "bench.training.finetune",
    "bench.generation.generate",
    "sklearn.datasets",
    "torchvision.utils",
]
CRASHES = (-signal.SIGABRT, -signal.SIGSEGV)
"""Exit statuses of a process whose memory was damaged."""
PROGRAM = """
import faulthandler, os, sys
os.environ.update({environment!r})
sys.stdout, sys.stderr = open(os.devnull, "w"), open({log!r}, "w", 1)
faulthandler.enable(sys.stderr)  # where a library's own code crashes, the log says under which call
{code}
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever started the tests, this process is alone unless a test says otherwise."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test says a line of progress that the loops of earlier tests made due."""
    monkeypatch.setattr(progress, "_log", progress._Log())


@pytest.fixture(scope="session")
def imported() -> list[str]:
    """What processes that tests start need not import for themselves."""
    return IMPORTED


@pytest.fixture(scope="session")
def start(imported: list[str]) -> Callable[..., Any]:
    """(code, log, environment) -> a process that runs Python code and writes its standard error to `log`.

    It starts fast: forked from one that has imported everything, and computed nothing.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(imported)

    def run(code: str, log: Path, environment: dict[str, str] | None = None) -> Any:
        program = PROGRAM.format(environment=environment or {}, log=str(log), code=code)
        process = context.Process(target=exec, args=(program, {}))
        process.start()
        return process

    return run


@pytest.fixture(scope="session")
def together(
    start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], list[tuple[int, str]]]:
    """(code, how many) -> exit status and standard error of each process, as torchrun would start them.

    Where one was ended by SIGABRT or SIGSEGV, all are started once more, as a user would do, with a warning. Once in
    about 150 runs on a busy CPU a process that sent shards by gloo ended with a damaged heap. Why is not known:
    valgrind finds no fault in a run that passes; pytorch/pytorch#75529 tells of such a race in torch.
    """

    def run(code: str, count: int) -> list[tuple[int, str]]:
        done = once(code, count)
        if any(status in CRASHES for status, _ in done):
            warnings.warn(f"a process crashed, and all processes are started once more: {done}", stacklevel=2)
            done = once(code, count)
        return done

    def once(code: str, count: int) -> list[tuple[int, str]]:
        folder = tmp_path_factory.mktemp("together")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        logs = [folder / f"log{rank}" for rank in range(count)]
        started = [
            start(code, log, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank, log in enumerate(logs)
        ]
        for process in started:
            process.join(60)
        return [(process.exitcode, log.read_text()) for process, log in zip(started, logs, strict=True)]

    return run


@pytest.fixture(scope="session")
def assert_weights_agree() -> Callable[[dict[str, Tensor], dict[str, Tensor]], None]:
    """(state, state) agree to 1e-5 of the norm of each tensor.

    The biases of keys are left out: softmax does not see them, so that their gradient is rounding alone, of which Adam
    makes whole steps.
    """

    def check(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        assert one.keys() == other.keys()
        for key, value in other.items():
            mine, value = one[key].double(), value.double()
            if key.endswith("attn.qkv.bias"):
                value, mine = (each.reshape(3, -1)[::2] for each in (value, mine))
            assert (mine - value).norm() <= 1e-5 * value.norm(), key

    return check
