"""The command line: bad input is one line and exit status 2; good input writes whole tables."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import cli
from bench.claims import read_summary


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flops", "--models", "DiT-XL/3"], "DiT-XL/2"),
        (["flops", "--lambdas", "0"], "(0, 1]"),
        (["flops", "--lambdas", "1.2"], "(0, 1]"),
        (["flops", "--checkpoint", "x.pt"], "no such checkpoint file"),
        (["flops", "--checkpoint", "x.pt", "--models", "DyDiT-S/2", "--lambdas", "0.5"], "x.pt"),
        (["reproduce", "--tier", "huge"], "smoke, default, full"),
        (["reproduce", "--checkpoints", "nowhere"], "nowhere/dit-m.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, *arguments, "--out", str(out)) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert len(stderr.splitlines()) == 1 and stderr.startswith("error: ")
    assert message in stderr
    assert not list(out.glob("*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("flops --model DiT-XL/2", "--model DiT-XL/2: it is for --checkpoint FILE"),
        ("flops --images 4", "--images 4: it is for --checkpoint FILE"),
        ("flops --weights model", "--weights model: it is for --checkpoint FILE"),
        ("flops --model a:b --lambdas 0.5 0.7", "--lambdas 0.5 0.7: --model a:b is a network of your own"),
        ("flops --model a:b --strict", "--strict: --model a:b"),
        ("latency --steps 20", "--steps 20: it is for whole runs"),
        ("latency --growth x --batch 8", "--batch 8: --growth joins finished runs"),
        ("latency --growth x --profile", "--profile: --growth joins finished runs"),
        ("latency --checkpoint x --profile", "--profile: --checkpoint times whole runs"),
        ("latency --checkpoint x --resolution 512", "--resolution 512: --checkpoint times whole runs"),
        ("latency --model a:b --lambdas 0.5", "--lambdas 0.5: --model times whole runs"),
        ("latency --profile --resolution 256 512", "--resolution 256 512: --profile tells the parts"),
        ("generate --model a:b --images 4 --weights model", "--weights model: a network of your own"),
        ("generate --model a:b --images 4 --engine masked", "--engine masked: a network of your own"),
        ("generate --checkpoint x --images 4 --resolution 512", "--resolution 512: it belongs to a model's name"),
        ("quality --samples a --paired b --resamples 0", "--resamples 0: --paired compares two runs"),
        ("quality --preset adm-g-imagenet256 --metrics FID IS", "--metrics FID IS: --preset adm-g-imagenet256"),
        ("plan --checkpoint x --images 4 --extractor digits-cnn", "--extractor digits-cnn: it is for --reference NAME"),
        ("reproduce --claim x --tier smoke", "--tier smoke: --claim judges one number"),
        ("small-scale --judge x --stages dit-m", "--stages dit-m: --judge reads a finished run"),
        ("compare-methods --resolution 512", "--resolution 512: it needs --network NAME"),
        ("compare-methods --network DiT-S/2 --images 20", "--images 20: it is for the digits"),
        ("report --page x --check", "--check: --page writes the page of its folders"),
    ],
)
def test_an_option_that_a_run_would_pass_over_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    line: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *line.split()) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.startswith(f"error: {message}") and stderr.endswith("; leave it out\n")
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize("command", ["flops", "reproduce", "small-scale"])
def test_an_output_directory_that_is_a_file_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    target = tmp_path / "taken"
    target.write_text("mine")
    assert run(monkeypatch, command, "--out", str(target)) == 2
    assert "is a file" in capsys.readouterr().err
    assert target.read_text() == "mine"


@pytest.mark.parametrize("name", ["flops.csv", "flops.md", "summary.csv", "run.json"])
def test_a_folder_where_a_table_should_be_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    assert run(monkeypatch, "flops", "--models", "DiT-S/2", "--lambdas", "0.5", "--out", str(tmp_path)) == 2
    wanted = f"error: {tmp_path}/{name}: a folder lies where the run writes a file; move it away or remove it\n"
    assert capsys.readouterr().err == wanted
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_one_line_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    """In a process of its own, whose files may have 500 bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    command = [sys.executable, "-B", "-m", "bench", "flops", "--models", "DiT-S/2", "--lambdas", "0.5", "--out"]
    # Without coverage, which would write a file of its own.
    own = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, preexec_fn=limit, env=own)
    assert done.returncode == 2
    # Torch 2.6 writes a file of its own when it is imported, and its error has no name.
    message = rf"error: ({tmp_path}/flops\.(csv|md): )?File too large; make room and repeat the run\n"
    told = [line for line in done.stderr.splitlines(keepends=True) if " minutes left" not in line]  # of a slow machine
    assert re.fullmatch(message, "".join(told))
    assert list(tmp_path.iterdir()) == []


def named(error: OSError, path: str) -> OSError:
    """As the error of a library whose file `atomic_path` has named."""
    error.filename = path
    return error


def raising(error: BaseException) -> Callable[[Any], None]:
    def run(_: Any) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"), 2, "x: No space left on device; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "x: Permission denied; make it accessible"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2, "x: File name too long; give a shorter path"),
        (OSError(errno.EIO, "Input/output error", b"x\xff"), 2, r"x\udcff: Input/output error; mend that"),
        (OSError("cannot be told"), 2, "cannot be told; mend that and repeat the run"),
        (named(OSError("No space"), "x"), 2, "x: No space; mend that and repeat the run"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("14 PiB"), 2, "out of memory (14 PiB)"),
        (RuntimeError("std::bad_alloc"), 2, "out of memory (std::bad_alloc)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, "out of memory (CUDA out of memory. Tried)"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, message: str
) -> None:
    monkeypatch.setattr("bench.commands.measure.flops.run", raising(error))
    assert run(monkeypatch, "flops") == status
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"error: {message}") and stderr.count("\n") == 1


def test_an_error_of_the_code_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.commands.measure.flops.run", raising(RuntimeError("a mistake")))
    with pytest.raises(RuntimeError, match="a mistake"):
        cli.main(["flops"])


def test_a_reader_that_went_away_is_no_error() -> None:
    command = f"{sys.executable} -m bench stats list | true; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr in ("0\n", "141\n")  # it may have finished before


def test_an_unknown_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "flops", "--modles", "DiT-S/2") == 2


@pytest.mark.parametrize(("strict", "status"), [(False, 0), (True, 1)])
def test_strict_turns_a_deviation_into_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, strict: bool, status: int
) -> None:
    """DiT-B/4's printed total is met by no convention."""
    arguments = ["flops", "--models", "DiT-B/4", "--out", str(tmp_path)] + ["--strict"] * strict
    assert run(monkeypatch, *arguments) == status
    assert "deviates" in capsys.readouterr().out
    assert {row.verdict for row in read_summary(tmp_path)} == {"reproduced", "deviates"} | {"not run"}


def test_the_full_tier_asks_for_the_released_checkpoints_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def offline(*_: object) -> None:
        raise OSError("no route to the hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    assert run(monkeypatch, "reproduce", "--tier", "full", "--out", str(tmp_path)) == 2
    assert "heisejiasuo/DyDiT" in capsys.readouterr().err


def test_help_works_in_a_process_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "--help"], capture_output=True, text=True, check=True)
    for command in ("reproduce", "flops", "small-scale", "report"):
        assert command in done.stdout


def test_the_list_of_commands_needs_no_heavy_library_and_a_command_only_its_own_module() -> None:
    program = """
import sys
from bench import cli
try:
    cli.main(sys.argv[1:])
except SystemExit:
    pass
print(*sorted(name for name in sys.modules if name == "torch" or name.startswith("bench.commands.")), file=sys.stderr)
"""
    for arguments, expected in (
        (["--help"], []),
        (["flops", "--help"], ["bench.commands.measure", "bench.commands.measure.flops", "torch"]),
    ):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.split() == expected
