"""Runs that were stopped go on to the same bits, whatever stopped them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.records import run_directory
from bench.training import checkpoints, finetune, log
from bench.training.job import FinetuneOptions, build_network, plan_training
from dydit import InputError, checkpoint
from dydit.checkpoint.atomic import atomic_path
from dydit.training.trainer import Training

REPEATS = int(os.environ.get("DYDIT_KILL_REPEATS", "2"))
"""How often in a row a run is killed."""
FULL = Path("/dev/full")
"""Where every write finds the disk full."""


@pytest.fixture
def assert_goes_on(
    whole: Path, tmp_path: Path, options: Callable[..., FinetuneOptions], assert_equal_runs: Callable[..., None]
) -> Callable[[], None]:
    """The run in `tmp_path` goes on to what a run leaves that nobody stopped."""

    def check() -> None:
        finetune.finetune(options(tmp_path))
        assert_equal_runs(tmp_path, whole)

    return check


@pytest.fixture
def refused_on_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[..., list[str]], refused: Callable[..., str]
) -> Callable[[Any, str, Any], str]:
    """(module, name, replacement) -> how the run in `tmp_path` is refused while `module.name` writes to a full disk."""

    def run(module: Any, name: str, replacement: Any) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, replacement)
            return refused(line(tmp_path))

    return run


def test_a_killed_run_goes_on_to_the_same_weights_to_the_bit(
    tmp_path: Path,
    options: Callable[..., FinetuneOptions],
    line: Callable[..., list[str]],
    start: Callable[..., Any],
    assert_equal_runs: Callable[..., None],
) -> None:
    changes = {"steps": 20, "target_reached": 15}
    out, log = tmp_path / "killed", tmp_path / "log"
    code = f"from bench import cli; cli.main({line(out, '--steps', '20', '--target-reached', '15')!r})"
    for kill in range(REPEATS):
        process = start(code, log)
        there, deadline = set((out / "checkpoints").glob("[0-9]*")), time.monotonic() + 60
        while not set((out / "checkpoints").glob("[0-9]*")) - there:  # every attempt gets one checkpoint further
            assert time.monotonic() < deadline, log.read_text()
            if not process.is_alive():
                assert process.exitcode == 0 and kill > 0, log.read_text()
                break
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.join()
    finetune.finetune(options(out, changes))
    finetune.finetune(options(tmp_path / "whole", changes))
    assert_equal_runs(out, tmp_path / "whole")
    assert not list(out.rglob(".*"))


def test_a_run_that_is_through_trains_no_step_more(
    whole: Path,
    options: Callable[..., FinetuneOptions],
    exported: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = exported(whole)["ema"]
    finetune.finetune(options(whole))
    assert "step 6 of 6" in capsys.readouterr().err
    assert all((value == exported(whole)["ema"][key]).all() for key, value in before.items())


def test_a_checkpoint_cut_short_is_passed_over(
    tmp_path: Path,
    options: Callable[..., FinetuneOptions],
    assert_goes_on: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    finetune.finetune(options(tmp_path))
    newest = tmp_path / "checkpoints" / "00000006.pt"
    newest.write_bytes(newest.read_bytes()[: 2 * newest.stat().st_size // 3])
    assert_goes_on()
    error = capsys.readouterr().err
    assert "00000006.pt: not a whole checkpoint" in error and "00000004.pt; processes" in error


def test_a_bit_that_flipped_in_a_checkpoint_reaches_no_weight(
    tmp_path: Path,
    options: Callable[..., FinetuneOptions],
    assert_goes_on: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nor does a changed log reach the record of the model, whose loss it tells."""
    finetune.finetune(options(tmp_path))
    newest, log = tmp_path / "checkpoints" / "00000006.pt", tmp_path / "log.csv"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 64
    newest.write_bytes(content)
    log.write_text(log.read_text().replace("\n1,", "\n1,9", 1))
    assert_goes_on()
    assert "passed over: " in capsys.readouterr().err


def test_a_damaged_checkpoint_never_stays_in_the_place_of_a_whole_one(
    tmp_path: Path, options: Callable[..., FinetuneOptions]
) -> None:
    finetune.finetune(options(tmp_path))
    newest = tmp_path / "checkpoints" / "00000006.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert checkpoints.newest_checkpoint(tmp_path) == newest.with_name("00000004.pt")
    there = checkpoints.read_whole(newest.with_name("00000004.pt"))
    state = there["training"] | {"step": 5}
    path = checkpoints.save_checkpoint(tmp_path, state, there["identity"], there["classes"], keep=1, logs={})
    assert list((tmp_path / "checkpoints").iterdir()) == [path] and checkpoints.newest_checkpoint(tmp_path) == path


def test_a_damaged_model_of_a_finished_run_is_made_again(
    tmp_path: Path, options: Callable[..., FinetuneOptions], assert_goes_on: Callable[[], None]
) -> None:
    path = finetune.finetune(options(tmp_path))
    assert path is not None
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(InputError, match="has changed"):
        checkpoint.read(path)
    assert_goes_on()
    assert path.read_bytes() == before


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("00000004.pt", ["00000002.pt"]),
        ("model.pt", ["00000004.pt", "00000006.pt"]),
        ("README.md", ["00000004.pt", "00000006.pt"]),
    ],
)
def test_a_full_disk_leaves_the_files_before_it_whole(
    tmp_path: Path,
    refused_on_full_disk: Callable[..., str],
    assert_goes_on: Callable[[], None],
    name: str,
    there: list[str],
) -> None:
    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Path]:
        with atomic_path(path) as partial:
            if path.name == name:
                partial.symlink_to(FULL)
            yield partial

    error = refused_on_full_disk(run_directory, "atomic_path", full)
    assert f"{name}: cannot be written (" in error and "No space left on device" in error
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == there
    assert not (tmp_path / name).exists()
    assert_goes_on()


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_a_log_on_a_full_disk_stops_the_run_in_one_line(
    tmp_path: Path, refused_on_full_disk: Callable[..., str], assert_goes_on: Callable[[], None]
) -> None:
    begun = log._begun

    def full(path: Path, *others: Any) -> Any:
        begun(path, *others).close()
        return FULL.open("a", 1)

    error = refused_on_full_disk(log, "_begun", full)
    assert f"{tmp_path}: cannot be written (No space left on device)" in error
    assert_goes_on()


def test_divergence_stops_with_the_last_good_checkpoint_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[..., list[str]], refused: Callable[..., str]
) -> None:
    advance = Training.advance

    def diverging(self: Training, data: Any) -> Any:
        if self.step == 3:
            raise InputError("training diverged at step 3: loss nan, gradient norm nan")
        return advance(self, data)

    monkeypatch.setattr(Training, "advance", diverging)
    error = refused(line(tmp_path))
    newest = tmp_path / "checkpoints" / "00000002.pt"
    assert "diverged at step 3" in error and error.endswith(f"the last checkpoint is {newest}")
    assert checkpoints.newest_checkpoint(tmp_path) == newest


def test_a_finished_run_is_made_longer_and_its_first_result_kept(
    whole: Path, tmp_path: Path, options: Callable[..., FinetuneOptions], exported: Callable[..., Any]
) -> None:
    short = finetune.finetune(options(tmp_path, {"steps": 4}))
    assert short is not None
    first = short.read_bytes()
    finetune.finetune(options(tmp_path))
    ours, theirs = exported(tmp_path), exported(whole)
    for name, state in theirs.items():
        assert all(torch.equal(ours[name][key], value) for key, value in state.items())
    assert (tmp_path / "model-4.safetensors").read_bytes() == first
    with pytest.raises(InputError, match=r"holds a run with recipe\.steps = 6, this one has 4"):
        finetune.finetune(options(tmp_path, {"steps": 4}))


def test_a_trained_model_is_trained_further_with_its_routers(
    whole: Path, tmp_path: Path, options: Callable[..., FinetuneOptions]
) -> None:
    wanted = dataclasses.replace(options(tmp_path), source=str(whole / "model.safetensors"))
    model = build_network(wanted, plan_training(wanted))
    trained = checkpoint.load_model(whole / "model.safetensors")[0].state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())
