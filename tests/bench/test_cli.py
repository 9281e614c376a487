"""The command line: bad input is one line and exit status 2; good input writes whole tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli
from bench.claims import JUDGED_PAPERS, load_published, read_summary, unmeasured_rows
from bench.records import run_record
from bench.reproduction import reproduce
from bench.studies.samples import Sampling


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
        (["flops", "--checkpoint", "x.pt"], "--models"),
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


def test_reproduce_gives_every_published_number_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(reproduce.TIERS, "smoke", Sampling(images=20, steps=2))
    rows = reproduce.reproduce(tmp_path, "smoke")
    ids = [row.claim_id for row in rows]
    published = {value.claim_id for name in JUDGED_PAPERS for value in load_published(name)}
    assert len(ids) == len(set(ids)) and published <= set(ids)
    assert read_summary(tmp_path) == tuple(rows)
    for name in ("summary", "flops", "quality"):
        assert (tmp_path / f"{name}.csv").is_file() and (tmp_path / f"{name}.md").is_file()
    assert run_record.read_run(tmp_path)["tier"] == "smoke"
    static = next(row for row in rows if row.claim_id == "dydit-table8-dit-xl-static-lambda-1.0-flops")
    assert static.verdict == "reproduced" and static.measured == pytest.approx(118.69, abs=0.005)


def test_rows_without_a_transcribed_value_are_listed_and_not_judged() -> None:
    rows = {row.claim_id: row for row in unmeasured_rows(set(), "smoke")}
    for name in JUDGED_PAPERS:
        for value in load_published(name):
            row = rows[value.claim_id]
            assert row.verdict == "not run" and row.measured is None
            assert (row.note == "published value not transcribed") == (value.value is None)
