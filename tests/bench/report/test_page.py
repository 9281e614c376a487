"""The page shows what lies in the run folders, whatever state they are in."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench import cli
from bench.records import read_table, write_table
from bench.report import page
from bench.report.page import render, write_page
from bench.report.runs import latest_rows, load_runs, run_folders

MACHINE = "cpu-intel-xeon-2-cores"
Make = Callable[..., Path]


@pytest.fixture
def shown(tmp_path: Path) -> Callable[..., str]:
    """The page of all runs under the test's folder."""
    return lambda: render(load_runs(run_folders(tmp_path), tmp_path))


class Addresses(HTMLParser):
    """All that a page would fetch, or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: list[str] = []
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.names.append(str(value))
            if name in ("src", "srcset", "data", "xlink:href") or (name == "href" and tag in ("link", "use", "image")):
                self.fetched.append(str(value))
            if name == "href" and tag == "a" and str(value).startswith("#"):
                self.anchors.append(str(value)[1:])


def test_a_value_that_changes_in_a_file_changes_on_the_page(
    make_run: Make, tmp_path: Path, shown: Callable[[], str]
) -> None:
    run = make_run(tmp_path / MACHINE / "reproduce", flops=6.0691)
    assert ">6.0691<" in shown() and "<strong>1</strong> reproduced" in shown()
    make_run(run, flops=6.0834)
    changed = shown()
    assert ">6.0834<" in changed and "6.0691" not in changed
    assert "<strong>1</strong> deviate" in changed and "6.07 published, 6.0834 measured" in changed


def test_a_measured_speedup_stands_beside_the_published_one(
    make_run: Make, tmp_path: Path, shown: Callable[[], str]
) -> None:
    make_run(tmp_path / MACHINE / "reproduce", speedup=1.8123)
    text = shown()
    section = text[text.index('<details id="dydit-table-8"') :].split("</details>")[0]
    assert ">1.8123<" in section and "another machine: not judged" in section and MACHINE in section


def test_the_sections_follow_from_the_tables(make_run: Make, tmp_path: Path, shown: Callable[[], str]) -> None:
    run = make_run(tmp_path / MACHINE / "reproduce")
    (run / "latency.csv").unlink()
    text = shown()
    assert 'id="figure-speedup-flops"' not in text and "Speed-up against FLOPs: no run here has the data" in text
    assert 'id="findings"' in text
    (run / "findings.csv").unlink()
    assert 'id="findings"' not in shown()


def test_an_unknown_table_and_picture_are_shown_by_their_names(
    make_run: Make, tmp_path: Path, shown: Callable[[], str]
) -> None:
    run = make_run(tmp_path / MACHINE / "odd")
    write_table(read_table(run, "latency")[["model"]].assign(scent="lavender"), run, "garden")
    (run / "flower_bed.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    text = shown()
    assert "lavender" in text and "garden: " in text and 'alt="flower bed of odd' in text


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda run: (run / "run.json").unlink(), "run.json: cannot be read"),
        (lambda run: (run / "run.json").write_text('{"schema_version": 1}'), "names no machine"),
        (lambda run: (run / "run.json").write_text('{"schema_version": 99}'), "newer than 1"),
        (lambda run: (run / "latency.csv").write_bytes(b"\xff\xfe\x00a,b"), "latency.csv: not a CSV table"),
        (lambda run: (run / "latency.csv").write_text(""), "latency.csv: not a CSV table"),
        (lambda run: (run / "summary.csv").write_text("claim_id,verdict\na,fine\n"), "they must be"),
        (lambda run: [path.unlink() for path in run.iterdir()], "holds no table"),
    ],
    ids=["no record", "old record", "newer schema", "not text", "empty table", "older summary", "empty folder"],
)
def test_what_is_broken_is_said_on_the_page(
    make_run: Make, tmp_path: Path, shown: Callable[[], str], break_it: Callable[[Path], object], said: str
) -> None:
    make_run(tmp_path / MACHINE / "whole")
    break_it(make_run(tmp_path / MACHINE / "broken"))
    problems = shown().split('id="problems"')[1].split("</section>")[0]
    assert said in problems and f"{MACHINE}/broken" in problems and str(tmp_path) not in problems


def test_text_in_a_time_column_costs_its_figure_and_no_more(
    make_run: Make, tmp_path: Path, shown: Callable[[], str]
) -> None:
    run = make_run(tmp_path / MACHINE / "reproduce")
    (run / "latency.csv").write_text((run / "latency.csv").read_text().replace("0.5,0.9", "half,0.9"))
    text = shown()
    assert "Speed-up against FLOPs: left out" in text and "<strong>1</strong> reproduced" in text


def test_a_run_under_the_name_of_another_machine_is_told(
    make_run: Make, tmp_path: Path, shown: Callable[[], str]
) -> None:
    make_run(tmp_path / "nvidia-h100" / "reproduce")
    assert f"was measured on {MACHINE}; move it to {MACHINE}/reproduce" in shown()


def test_a_page_without_runs_says_how_to_make_one(shown: Callable[[], str]) -> None:
    assert "no run at all" in shown()


def test_text_of_a_table_is_never_markup(make_run: Make, tmp_path: Path, shown: Callable[[], str]) -> None:
    run = make_run(tmp_path / MACHINE / "odd")
    write_table(read_table(run, "latency")[["model"]].assign(x="<script>alert(1)</script>"), run, "garden")
    assert "<script>alert" not in shown() and "&lt;script&gt;alert" in shown()


def test_a_number_that_one_machine_measured_is_not_waiting(make_run: Make, tmp_path: Path) -> None:
    first = make_run(tmp_path / MACHINE / "a")
    second = make_run(tmp_path / MACHINE / "b")
    text = (second / "summary.csv").read_text().splitlines()
    (second / "summary.csv").write_text("\n".join([text[0], text[2]]) + "\n")
    rows = latest_rows(load_runs([first, second], tmp_path))
    assert [(row.claim_id, row.verdict) for row in rows] == [("a", "reproduced"), ("b", "not run")]


def test_the_page_of_any_run_folder(make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "mine")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["report", "--page", str(run)])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert ">6.0691<" in (run / "report.html").read_text(encoding="utf-8")


def test_the_page_of_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["report", "--page", str(tmp_path / "none")])
    assert exit_.value.code == 2
    assert "no such directory" in capsys.readouterr().err


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(run_folders(), tmp_path_factory.mktemp("page") / "report.html")


def test_the_committed_page_is_small_whole_and_fetches_nothing(committed: Path) -> None:
    text = committed.read_text(encoding="utf-8")
    assert committed.stat().st_size < 3_000_000
    assert 'id="problems"' not in text
    read = Addresses()
    read.feed(text)
    assert [address[:40] for address in read.fetched if not address.startswith(("data:", "#"))] == []
    assert len(read.names) == len(set(read.names))
    assert set(read.anchors) <= set(read.names)
    assert not re.search(r"url\((?!#)|@import", text)


def test_every_picture_has_alternative_text(committed: Path) -> None:
    text = committed.read_text(encoding="utf-8")
    images = re.findall(r"<img [^>]*>", text)
    drawings = re.findall(r"<svg [^>]*>", text)
    assert len(images) >= 8 and len(drawings) >= 8
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    assert all(re.search(r'role="img" aria-label="[^"]{40,}"', drawing) for drawing in drawings)


def test_two_strangers_find_their_answers(committed: Path) -> None:
    """Both stand in the second section: a heading with the question, an answer with numbers, a command of one's own."""
    part = committed.read_text(encoding="utf-8").split('id="answers"')[1].split("</section>")[0]
    assert "Is 1.73x real on my machine?" in part and "--device cuda" in part
    assert "Which FLOPs convention is 57.88 G?" in part and "dydit-paper: one multiply-add counts as one" in part
    (timed,) = page.RESULTS.glob("*/latency-lambdas")
    measured = read_table(timed, "latency")
    rows = measured[
        (measured["model"] == "DiT-XL/2") & (measured["lambda"] == 0.5) & (measured["engine"] == "realised")
    ]
    assert f"{rows['speedup'].iloc[0]:.2f} times as fast" in part
