"""The README's table is generated from a summary, and its staleness is seen."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.claims import Activity, Claim, Rule, StatedClaim, SummaryRow, Tolerance, write_findings, write_summary
from bench.records import environment, run_record
from bench.records.tables import write_table
from bench.report.readme import SECTIONS, committed_run, update_readme
from dydit import InputError

TOLERANCE = Tolerance.symmetric(0.005, "printed to 2 decimals")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    claim = Claim("a", "Paper, Table 1", "DiT", "FLOPs", "G", 6.07)
    rows = [
        SummaryRow.judged(claim, 6.0691, TOLERANCE, "smoke", "flops.csv"),
        SummaryRow.not_run(Claim("b", "Paper, Table 1", "DiT", "FID", "", 2.27), "smoke", "no weights"),
    ]
    write_summary(rows, tmp_path)
    activity = Activity("heads closed", 0.5, "DyDiT: open heads 0.5")
    stated = StatedClaim("f", "Learned beats random", "Paper, Table 3", "FID ratio", Rule.below(1.0, "a direction"))
    write_findings([stated.judge(0.7, (0.6, 0.8), activity, seeds=3, evidence="runs.csv")], tmp_path)
    run_record.write_run(environment.environment_record(), tmp_path)
    return tmp_path


def test_the_coverage_is_counted_from_the_run(run: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- coverage: begin -->\n<!-- coverage: end -->\n")
    update_readme(run, "coverage", readme=readme)
    first = readme.read_text().splitlines()[1]
    assert first.startswith("1 of 2 published numbers were measured in this run (1 of FLOPs, ")
    assert update_readme(run, "coverage", check=True, readme=readme)


def test_a_run_that_was_judged_again_says_by_what(run: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: begin -->\n<!-- results: end -->\n")
    judged = {"command": "python -m bench small-scale --judge DIR", "commit": "0123456789abcdef"}
    run_record.write_run(environment.environment_record() | {"judged": judged}, run)
    update_readme(run, readme=readme)
    text = readme.read_text()
    assert "and judged by `python -m bench small-scale --judge DIR` at commit 0123456789ab on" in text


def test_the_readme_is_written_once_and_then_up_to_date(run: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    assert not update_readme(run, check=True, readme=readme)
    assert "old" in readme.read_text()
    assert not update_readme(run, readme=readme)
    assert update_readme(run, check=True, readme=readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "reproduced" in text


def test_a_readme_without_markers_is_refused(run: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(InputError, match="markers"):
        update_readme(run, readme=readme)


def test_pages_are_written_in_a_checkout_only(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"README\.md: cannot be read .* in a checkout"):
        update_readme(run, readme=tmp_path / "README.md")


def test_the_section_of_the_study_holds_its_answers_too(run: Path, tmp_path: Path) -> None:
    questions = {"question": ["Why?"], "configurations": ["a / b"], "answer": ["FID no worse"], "loss ratio": [1.0]}
    write_table(pd.DataFrame(questions), run, "questions")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- study: begin -->\n<!-- study: end -->\nafter\n")
    update_readme(run, "study", readme=readme)
    assert update_readme(run, "study", check=True, readme=readme)
    text = readme.read_text()
    assert "| Why? | a / b | FID no worse |" in text and "| 0.700 | 0.600 to 0.800 | below 1 | 3 | supported |" in text


def test_the_section_of_speed_shows_what_skipping_is_worth(tmp_path: Path) -> None:
    columns = "model lambda batch profile engine speedup speedup_low speedup_high over_plain flops_ratio efficiency"
    rows = [
        ("DiT-S/2", 1.0, 2, "", "static", 1.0, 1.0, 1.0, 1.25, 1.0, 1.0),
        ("DiT-S/2", 0.5, 2, "even", "masked", 0.7, 0.6, 0.8, 0.875, 1.0, 0.7),
        ("DiT-S/2", 0.5, 2, "even", "realised", 1.8, 1.7, 1.9, 2.25, 0.5, 0.9),
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(columns.split())).assign(device="cpu", dtype="fp32", resolution=256)
    frame["published_speedup"] = 1.54
    write_table(frame, tmp_path, "latency")
    run_record.write_run(environment.environment_record(), tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- speed: begin -->\n<!-- speed: end -->\n")
    update_readme(tmp_path, "speed", readme=readme)
    text = readme.read_text()
    assert "| DiT-S/2 | 0.5 | 2 | even | 1.54 | 0.875 | 1.8 | 1.70 to 1.90 | 2 | 0.9 |" in text
    assert "cpu, fp32, 256 pixels" in text and "latency.csv" in text


@pytest.mark.parametrize("section", SECTIONS)
def test_the_committed_readme_shows_committed_results(section: str) -> None:
    assert update_readme(committed_run(section), section, check=True)


def test_the_committed_run_is_the_only_one_with_a_summary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        committed_run(directory=tmp_path)
    for name in ("local", "machine"):
        (tmp_path / name / "reproduce").mkdir(parents=True)
        (tmp_path / name / "reproduce" / "summary.csv").touch()
    assert committed_run(directory=tmp_path) == tmp_path / "machine" / "reproduce"
    (tmp_path / "other" / "reproduce").mkdir(parents=True)
    (tmp_path / "other" / "reproduce" / "summary.csv").touch()
    with pytest.raises(InputError, match="machine/reproduce, other/reproduce"):
        committed_run(directory=tmp_path)
