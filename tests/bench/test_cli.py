"""The command line: bad input is one line and exit status 2; good input writes whole tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("command", ["flops", "reproduce", "small-scale"])
def test_an_output_directory_that_is_a_file_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    target = tmp_path / "taken"
    target.write_text("mine")
    assert run(monkeypatch, command, "--out", str(target)) == 2
    assert "is a file" in capsys.readouterr().err
    assert target.read_text() == "mine"


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
