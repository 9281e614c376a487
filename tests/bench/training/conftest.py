"""Short fine-tunings of the digits: six steps, a checkpoint every other one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import cli
from bench.studies.samples import committed_file
from bench.training import finetune
from bench.training.job import FinetuneOptions

SCHEDULE = {"steps": 6, "batch_size": 8, "target": 0.5, "complete_warmup": 3, "target_hold": 1, "target_reached": 4}
LINE = "--steps 6 --batch 8 --lambda 0.5 --warmup 3 --target-hold 1 --target-reached 4 --data digits --save-every 2"
"""The same as a command line."""


@pytest.fixture(autouse=True)
def tiny(one_thread: None) -> None:
    """Tiny models lose time to threads."""


@pytest.fixture(scope="session")
def static() -> str:
    """The static checkpoint."""
    return str(committed_file())


@pytest.fixture(scope="session")
def options(static: str) -> Callable[..., FinetuneOptions]:
    """(out, changes of the schedule, **other options) -> options."""

    def make(out: Path, changes: dict[str, Any] | None = None, **others: Any) -> FinetuneOptions:
        values = {"source": static, "data": "digits", "out": out, "save_every": 2, **others}
        return FinetuneOptions(**values, **{**SCHEDULE, **(changes or {})})

    return make


@pytest.fixture(scope="session")
def line(static: str) -> Callable[..., list[str]]:
    """(out, *more) -> the command line of `options`; what comes later replaces what came before."""

    def make(out: Path, *more: str) -> list[str]:
        return ["finetune", "--from", static, *LINE.split(), "--out", str(out), *more]

    return make


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """(command line) -> the one line with which it is refused, with status 2."""

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        lines = capsys.readouterr().err.splitlines()
        assert exit_.value.code == 2 and [text for text in lines if text.startswith("error: ")] == lines[-1:]
        return lines[-1]

    return run


@pytest.fixture(scope="session")
def exported() -> Callable[[Path], dict[str, dict[str, Tensor]]]:
    """(out) -> the weights that a run left."""

    def read(out: Path) -> dict[str, dict[str, Tensor]]:
        content: dict[str, dict[str, Tensor]] = torch.load(out / "model.pt", weights_only=True)
        return content

    return read


@pytest.fixture(scope="session")
def assert_equal_runs(exported: Callable[[Path], Any]) -> Callable[[Path, Path], None]:
    """(out, out) hold the same weights and logs, to the bit."""

    def check(one: Path, other: Path) -> None:
        mine, theirs = exported(one), exported(other)
        for name in ("ema", "model"):
            assert mine[name].keys() == theirs[name].keys()
            assert all(torch.equal(mine[name][key], theirs[name][key]) for key in theirs[name])
        for name in ("log.csv", "rates.csv"):
            assert (one / name).read_text() == (other / name).read_text()

    return check


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, options: Callable[..., FinetuneOptions]) -> Path:
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    assert finetune.finetune(options(out)) == out / "model.safetensors"
    assert torch.get_num_threads() == threads
    return out


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Path]:
    """(folder, side) -> the folder with four random pictures, in two classes and grey unless said otherwise."""

    def make(folder: Path, side: int, *, classes: bool = True, grey: bool = True) -> Path:
        rng = np.random.default_rng(0)
        for index in range(4):
            path = folder / (f"class{index % 2}" if classes else ".") / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (side, side) if grey else (side, side, 3)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
        return folder

    return make
