"""`bench plan` and the full tier of `bench reproduce` tell what is missing before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import cli
from bench.records import Results, run_record
from bench.records.tables import read_table
from bench.reproduction import reproduce
from bench.studies.samples import committed_file
from dydit import InputError, checkpoint

pytestmark = pytest.mark.usefixtures("bare_machine")

DIGITS = str(committed_file(0.5))
XL = {"checkpoint": "dydit-xl-2-lambda-0.5", "model": "DyDiT-XL/2"}
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `bench plan` into `tmp_path / "out"`: exit status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["plan", *map(str, arguments), "--out", str(tmp_path / "out")])
        assert isinstance(exit_.value.code, int)
        return (exit_.value.code, *capsys.readouterr())

    return run


def test_the_command_writes_tables_and_a_record(command: Command, tmp_path: Path) -> None:
    run = ("--checkpoint", DIGITS, "--images", 20, "--steps", 10, "--gpus", 1, 2)
    status, output, _ = command(*run, "--reference", "digits", "--extractor", "digits-cnn", "--strict")
    assert status == 0 and "nothing is missing" in output
    out = tmp_path / "out"
    costs = read_table(out, "plan").set_index("quantity")["value"]
    assert costs["network passes"] == 20 * 10 * 2
    assert costs["time on 2 devices"] == costs["time on 1 device"]  # one unit
    assert (read_table(out, "requirements")["present"] == "yes").all()
    assert (out / "plan.md").is_file() and (out / "requirements.md").is_file()
    assert run_record.read_run(out)["rounds_ms"]["steps"]


@pytest.mark.parametrize("strict", [False, True])
def test_strict_makes_something_missing_an_exit_status(command: Command, strict: bool) -> None:
    arguments = ["--checkpoint", XL["checkpoint"], "--model", XL["model"], "--images", 10, "--rate", 1]
    status, output, errors = command(*arguments, *["--strict"] * strict)
    assert status == int(strict)
    assert "2 of 3 needs are missing" in output and errors == ""


def test_bad_input_is_one_line_and_status_2(command: Command, tmp_path: Path) -> None:
    status, output, errors = command("--checkpoint", DIGITS, "--images", 0)
    assert (status, output) == (2, "")
    assert errors.startswith("error: --images 0") and len(errors.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


def test_tier_full_names_all_that_is_missing_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "measure_released", lambda: pytest.fail("work began"))
    with pytest.raises(InputError) as caught:
        reproduce.reproduce(Results(tmp_path / "out"), "full")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for name, (_, file) in checkpoint.PUBLISHED.items():
        assert name in message and file in message


def test_help_shows_the_options_of_the_run_and_of_the_plan(command: Command) -> None:
    status, output, _ = command("--help")
    assert status == 0
    for option in ("--checkpoint", "--sampler", "--gpus", "--rate", "--reference", "--strict"):
        assert option in output
