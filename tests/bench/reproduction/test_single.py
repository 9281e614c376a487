"""One published number by its claim id."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import cli
from bench.claims import read_summary
from bench.records import read_run
from bench.reproduction.single import reproduce_claim
from dydit import InputError

SETTINGS = "dydit-table6-imagenet-fine-tuning-settings-random-flip-augmentation"


def test_a_count_is_judged_now(tmp_path: Path) -> None:
    row = reproduce_claim("dydit-table8-dit-s-static-lambda-1.0-flops", tmp_path)
    assert row.verdict == "reproduced" and row.measured == pytest.approx(6.07, abs=0.005)
    assert read_summary(tmp_path) == (row,) and (tmp_path / "flops.csv").is_file()
    assert read_run(tmp_path)["claim"] == row.claim_id


def test_a_fact_of_a_recipe_is_judged_without_counting(tmp_path: Path) -> None:
    row = reproduce_claim(f"{SETTINGS}-global-batch-size", tmp_path)
    assert row.verdict == "reproduced" and not (tmp_path / "flops.csv").exists()


def test_what_needs_more_says_what_and_by_which_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["reproduce", "--claim", "dydit-table8-dydit-xl-lambda-0.5-acceleration", "--out", str(tmp_path)])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    assert (
        "acceleration: not run" in said and "waits for a V100 with 32 GB" in said and "python -m bench latency" in said
    )


def test_an_unknown_id_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no published number has this id.*dydit-table8"):
        reproduce_claim("dydit-table8-dydit-xl-lambda-0.5-fid", tmp_path)
    assert list(tmp_path.iterdir()) == []
