"""Two processes, each with the whole model or with its share, leave what one leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.training import finetune
from bench.training.job import FinetuneOptions

MICRO = {"micro_batch": 2}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, options: Callable[..., FinetuneOptions]) -> Path:
    out = tmp_path_factory.mktemp("one")
    finetune.finetune(options(out, MICRO))
    return out


@pytest.fixture
def two(together: Callable[..., Any], line: Callable[..., list[str]]) -> Callable[..., list[tuple[int, str]]]:
    """(out, *more) -> exit status and standard error of two processes with that command line."""

    def run(out: Path, *more: str) -> list[tuple[int, str]]:
        done: list[tuple[int, str]] = together(f"from bench import cli; cli.main({line(out, *more)!r})", 2)
        return done

    return run


@pytest.fixture
def assert_like_one(
    one: Path, exported: Callable[..., Any], assert_weights_agree: Callable[..., None]
) -> Callable[[Path], None]:
    """(out) holds what one process leaves."""

    def check(out: Path) -> None:
        for name, state in exported(one).items():
            assert_weights_agree(exported(out)[name], state)
        assert {path.name for path in out.rglob("*")} == {path.name for path in one.rglob("*")}

    return check


@pytest.mark.parametrize("how", [[], ["--shard"]])
def test_two_processes_train_the_same_weights(
    tmp_path: Path, two: Callable[..., Any], assert_like_one: Callable[..., None], how: list[str]
) -> None:
    (status, told), other = two(tmp_path, "--micro-batch", "2", *how)
    assert status == 0, (told, other)
    assert "processes: 2" in told and other == (0, "")
    assert_like_one(tmp_path)


def test_shares_go_on_where_one_process_stopped_and_one_where_they_did(
    tmp_path: Path,
    one: Path,
    two: Callable[..., Any],
    options: Callable[..., FinetuneOptions],
    assert_like_one: Callable[..., None],
) -> None:
    shutil.copytree(one, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "checkpoints" / "00000006.pt"
    last.unlink()
    (status, told), _ = two(tmp_path, "--micro-batch", "2", "--shard", "--checkpointing", "--save-every", "1")
    assert status == 0 and "step 4 of 6, going on from" in told, told
    last.unlink()  # step 5 is of the shares
    finetune.finetune(options(tmp_path, MICRO))
    (tmp_path / "checkpoints" / "00000005.pt").rename(last.with_name("00000004.pt"))
    assert_like_one(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_on_a_full_disk_stops_both(
    tmp_path: Path, together: Callable[..., Any], line: Callable[..., list[str]]
) -> None:
    code = f"""
from bench import cli
from bench.training import log
log._begun = lambda *_: open("/dev/full", "a", 1)
cli.main({line(tmp_path, "--micro-batch", "2")!r})
"""
    (status, told), other = together(code, 2)
    assert (status, other) == (2, (2, ""))
    assert told.splitlines()[-1].startswith(f"error: {tmp_path}: cannot be written (No space left on device)")


def test_a_batch_that_the_processes_cannot_share_is_refused_by_the_first(
    tmp_path: Path, two: Callable[..., Any]
) -> None:
    (status, told), other = two(tmp_path)
    assert (status, other) == (2, (2, ""))
    assert told.startswith("error: recipe: 1 x 8 images") and told.endswith("is a multiple\n")
    assert not list(tmp_path.iterdir())
