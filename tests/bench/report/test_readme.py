"""Generated parts of pages come from runs, and their staleness is seen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.records import environment, read_table, run_record
from bench.records.tables import write_table
from bench.report.figures.front import PICTURE, update_picture
from bench.report.readme import README, RUNS, SECTIONS, committed_run, other_findings, update_section
from dydit import InputError

Runs = dict[str, Path]


@pytest.fixture
def runs(make_run: Callable[..., Path], tmp_path: Path) -> Runs:
    """One folder that holds what all pages show."""
    run = make_run(tmp_path / "results" / "machine" / "all")
    questions = {"question": ["Why?"], "configurations": ["a / b"], "answer": ["FID no worse"], "loss ratio": [1.0]}
    write_table(pd.DataFrame(questions), run, "questions")
    return dict.fromkeys(RUNS, run)


@pytest.fixture
def shown(runs: Runs, tmp_path: Path) -> Callable[[str], str]:
    """What stands on the page of a section once it is written."""

    def show(name: str) -> str:
        page = tmp_path / SECTIONS[name].page
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"before\n<!-- {name}: begin -->\nstale\n<!-- {name}: end -->\nafter\n")
        assert not update_section(runs, name, check=True, root=tmp_path) and "stale" in page.read_text()
        assert not update_section(runs, name, root=tmp_path)
        assert update_section(runs, name, check=True, root=tmp_path)
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("after\n") and "stale" not in text
        return text

    return show


def test_what_was_measured_is_a_sentence(shown: Callable[[str], str]) -> None:
    assert shown("measured").splitlines()[2] == (
        "Of 2 printed numbers 1 are reproduced, 0 deviate and 1 were not run, all of speed and quality among them."
    )


def test_a_value_that_changes_in_a_file_changes_on_the_page(
    make_run: Callable[..., Path], runs: Runs, shown: Callable[[str], str]
) -> None:
    assert "**Deviates:** nothing." in shown("findings") and "| 1 | 0 | 1 | a GPU |" in shown("scoreboard")
    make_run(runs["results"], flops=6.0834)
    assert "DyDiT, Table 8, DiT-S static lambda=1.0, FLOPs: 6.07 printed, 6.0834 measured" in shown("findings")
    assert "| 0 | 1 | 1 | a GPU |" in shown("scoreboard")
    assert "| 6.07 | two-sources | 6.0834 |" in shown("tables")


def test_the_bullets_say_what_the_numbers_say(
    make_run: Callable[..., Path], runs: Runs, shown: Callable[[str], str], tmp_path: Path
) -> None:
    frame = read_table(runs["speed"], "latency").assign(model="DiT-XL/2")
    write_table(frame, runs["speed"], "latency")
    half = make_run(tmp_path / "results" / "machine" / "half")
    write_table(frame.assign(dtype="bf16"), half, "latency")
    runs["speed_bf16"] = half
    text = shown("findings")
    assert "**Holds:** 1 of 1 FLOPs and parameter counts, 0 of 0 other numbers" in text
    assert "DiT-XL/2 at lambda 0.5 is 1.80 times as fast (1.70 to 1.90) on cpu-intel-xeon-2-cores, for 2.00" in text
    assert "In bf16, 1.80 times as fast (1.70 to 1.90) on cpu-intel-xeon-2-cores." in text
    assert "all: 1 supported, 0 contradicted, 0 inconclusive, 0 not exercised" in text
    assert "**Not run:** 1; 1 for a GPU" in text


def test_the_duration_is_that_of_the_record(runs: Runs, shown: Callable[[str], str]) -> None:
    assert "does not tell how long" in shown("duration")
    facts = environment.environment_record() | {"tier": "default", "seconds": 754}
    run_record.write_run(facts, runs["results"])
    assert f"Tier default took 12 min 34 s on {environment.machine_name(facts)}" in shown("duration")


def test_findings_of_every_committed_run_are_told(make_run: Callable[..., Path], tmp_path: Path) -> None:
    results = tmp_path / "results"
    chosen = {name: make_run(results / "machine" / Path(where).parent.name) for name, where in RUNS.items()}
    other = make_run(results / "machine" / "other")
    make_run(results / "local" / "mine")
    found = other_findings(chosen, results)
    assert found[:3] == [chosen["results"], chosen["study"], chosen["clothes"]] and other in found
    assert results / "local" / "mine" not in found


def test_a_run_that_was_judged_again_says_by_what(runs: Runs, shown: Callable[[str], str]) -> None:
    judged = {"command": "python -m bench small-scale --judge DIR", "commit": "0123456789abcdef"}
    run_record.write_run(environment.environment_record() | {"judged": judged}, runs["study"])
    assert "and judged by `python -m bench small-scale --judge DIR` at commit 0123456789ab on" in shown("study")


def test_the_section_of_the_study_holds_its_answers_too(shown: Callable[[str], str]) -> None:
    text = shown("study")
    assert "| Why? | a / b | FID no worse |" in text and "| 0.700 | 0.600 to 0.800 | below 1 | 3 | supported |" in text


def test_the_section_of_speed_shows_what_skipping_is_worth(runs: Runs, shown: Callable[[str], str]) -> None:
    frame = read_table(runs["speed"], "latency").assign(over_plain=[1.25, 0.875, 2.25])
    write_table(frame, runs["speed"], "latency")
    text = shown("speed")
    assert "| DiT-S/2 | 0.5 | 2 | even | 1.54 | 0.875 | 1.8 | 1.70 to 1.90 | 2 | 0.9 |" in text
    assert "cpu, fp32, 256 pixels" in text and "From [machine/all/latency.csv](machine/all/latency.csv)" in text
    assert "realised / static" in text
    write_table(frame.assign(base="torch.compile"), runs["speed"], "latency")
    text = shown("speed")
    assert "| realised / fastest static |" in text and "| torch.compile | 1.8 | 1.70 to 1.90 |" in text


def test_a_page_without_markers_is_refused(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here\n")
    with pytest.raises(InputError, match="markers"):
        update_section(runs, "measured", root=tmp_path)


def test_pages_are_written_in_a_checkout_only(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"README\.md: cannot be read .* in a checkout"):
        update_section(runs, "measured", root=tmp_path)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_committed_pages_show_committed_results(section: str) -> None:
    assert update_section({name: committed_run(name) for name in RUNS}, section, check=True)


def test_the_committed_figure_shows_committed_results(make_run: Callable[..., Path], tmp_path: Path) -> None:
    assert update_picture(check=True) and PICTURE.stat().st_size < 200_000
    make_run(tmp_path / "cpu-intel-xeon-2-cores" / "latency")
    path = tmp_path / "figure.svg"
    assert not update_picture(results=tmp_path, path=path) and update_picture(results=tmp_path, path=path)
    make_run(tmp_path / "cpu-intel-xeon-2-cores" / "latency", speedup=1.75)
    assert not update_picture(check=True, results=tmp_path, path=path)


def test_the_front_page_is_read_at_a_glance() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert len(text.encode()) <= 8 * 1024
    assert sum(line.startswith("|") for line in text.splitlines()) <= 25


def test_the_scoreboard_leads_to_sections_that_exist() -> None:
    text = README.read_text(encoding="utf-8")
    full = (README.parent / "results" / "README.md").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\(results/README\.md#([^)]+)\)", text))
    assert len(wanted) >= 20 and wanted <= set(re.findall(r'<a id="([^"]+)">', full))


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
