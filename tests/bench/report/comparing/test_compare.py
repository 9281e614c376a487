"""Two runs, row by row: intervals from raw samples, reasons where nothing can be compared, and a gate that can fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import cli
from bench.records import read_run, read_table, run_record, write_table
from bench.report.comparing.compare import Change, comparable, compare_runs, regressions, told
from bench.report.comparing.protocols import protocol_of
from bench.report.comparing.ratios import combined, median_ratio, samples_of
from dydit import InputError

Make = Callable[..., Path]


@pytest.fixture
def pair(make_run: Make, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """(what the second run has other than the first) -> both folders."""

    def make(**second: Any) -> tuple[Path, Path]:
        return make_run(tmp_path / "one"), make_run(tmp_path / "two", **second)

    return make


def find(changes: Sequence[Change], value: str, row: str = "") -> Change:
    (found,) = [change for change in changes if change.value == value and row in change.row]
    return found


def set_cell(run: Path, table: str, column: str, value: Any, row: int = -1) -> None:
    frame = read_table(run, table)
    frame[column] = frame[column].astype(object)
    frame.loc[frame.index[row], column] = value
    write_table(frame, run, table)


def sampled(run: Path, milliseconds: Sequence[float]) -> None:
    samples = [{"model": "DiT-S/2", "batch": 2, "case": "realised 0.5 even", "rounds_ms": list(milliseconds)}]
    run_record.write_run(read_run(run) | {"samples": samples}, run)


def test_a_run_beside_itself_is_the_same(pair: Callable[..., tuple[Path, Path]]) -> None:
    changes = compare_runs(*pair())
    assert {change.outcome for change in changes} == {"same"} and comparable(changes)


def test_a_value_that_changes_in_a_file_is_found(pair: Callable[..., tuple[Path, Path]]) -> None:
    change = find(compare_runs(*pair(flops=6.0692)), "measured", "a")
    assert (change.first, change.second, change.outcome) == (6.0691, 6.0692, "changed")


def test_a_verdict_that_steps_down_is_worse(pair: Callable[..., tuple[Path, Path]]) -> None:
    one, two = pair(flops=6.0834)
    change = find(compare_runs(one, two), "verdict")
    assert change.outcome == "worse" and change.reason == "reproduced became deviates"
    assert find(compare_runs(two, one), "verdict").outcome == "better"


def test_a_number_that_is_not_measured_any_more_is_worse(pair: Callable[..., tuple[Path, Path]]) -> None:
    one, two = pair()
    text = (two / "summary.csv").read_text().splitlines()
    cells = ["a", "DyDiT, Table 8", "DiT-S static lambda=1.0", "FLOPs", "G", "6.07", "", "", "not run", "smoke", ""]
    row = [f'"{cell}"' for cell in [*cells, "no time", "two-sources", "", "", "", ""]]
    (two / "summary.csv").write_text("\n".join([text[0], ",".join(row), text[2]]) + "\n")
    assert [change.reason for change in regressions(compare_runs(one, two))] == ["reproduced became not run"]


def test_times_have_an_interval_from_raw_samples(pair: Callable[..., tuple[Path, Path]]) -> None:
    one, two = pair()
    sampled(one, [50, 51, 52, 53, 54])
    sampled(two, [75, 76.5, 78, 79.5, 81])
    set_cell(two, "latency", "ms_median", 78.0)
    change = find(compare_runs(one, two), "ms_median", "realised")
    assert change.reason == "raw samples, 5 and 5 rounds" and change.outcome == "worse"
    assert change.low is not None and change.high is not None and change.low < 78 / 52 < change.high
    # The same medians, and rounds that scatter over each other.
    sampled(one, [20, 30, 52, 90, 100])
    assert find(compare_runs(one, two), "ms_median", "realised").outcome == "undecided"


def test_without_an_interval_nothing_is_decided(pair: Callable[..., tuple[Path, Path]]) -> None:
    one, two = pair()
    set_cell(two, "latency", "ms_median", 780.0)
    change = find(compare_runs(one, two), "ms_median", "realised")
    assert (change.outcome, change.reason) == ("undecided", "no interval is stored")


def test_speedups_are_compared_by_both_intervals(pair: Callable[..., tuple[Path, Path]]) -> None:
    one, two = pair()
    for column, value in (("speedup", 1.2), ("speedup_low", 1.19), ("speedup_high", 1.21)):
        set_cell(two, "latency", column, value)
    change = find(compare_runs(one, two), "speedup", "realised")
    assert (change.outcome, change.reason) == ("worse", "both intervals")
    assert find(compare_runs(two, one), "speedup", "realised").outcome == "better"


@pytest.mark.parametrize(
    ("changes", "table", "reason"),
    [
        ({"cpu": {"model": "AMD EPYC", "logical_cores": 2}}, "latency", "other machine: cpu-intel-xeon-2-cores and"),
        ({"torch": {"version": "2.9", "threads": 1, "devices": []}}, "latency", "other threads: 2 and 1"),
        ({"tier": "smoke"}, "findings", "other tier: None and smoke"),
    ],
)
def test_another_protocol_is_named(
    pair: Callable[..., tuple[Path, Path]], changes: dict[str, Any], table: str, reason: str
) -> None:
    found = [change for change in compare_runs(*pair(**changes)) if change.outcome == "not comparable"]
    assert [change.table for change in found] == [table] and found[0].reason.startswith(reason)


def test_another_extractor_is_named(pair: Callable[..., tuple[Path, Path]]) -> None:
    runs = pair()
    for run, extractor in zip(runs, ("digits-cnn", "inception-v3-compat"), strict=True):
        columns = {"model": ["DiT"], "dataset": ["digits"], "metric": ["FID"], "value": [45.8], "low": [40.0]}
        columns |= {"high": [53.0], "extractor": [extractor]}
        write_table(pd.DataFrame(columns), run, "quality")
    found = [change for change in compare_runs(*runs) if change.table == "quality"]
    assert [change.reason for change in found] == ["other extractor: digits-cnn and inception-v3-compat"]


def test_a_lower_fid_is_better_and_a_lower_recall_worse(pair: Callable[..., tuple[Path, Path]]) -> None:
    runs = pair()
    for run, factor in zip(runs, (1.0, 0.5), strict=True):
        frame = pd.DataFrame({"model": "DiT", "dataset": "digits", "metric": ["FID[digits-cnn]", "recall[digits-cnn]"]})
        write_table(frame.assign(value=0.8 * factor, low=0.78 * factor, high=0.82 * factor), run, "quality")
    outcomes = [change.outcome for change in compare_runs(*runs) if change.table == "quality"]
    assert outcomes == ["better", "worse"]


def test_other_columns_are_another_schema(pair: Callable[..., tuple[Path, Path]]) -> None:
    one, two = pair()
    write_table(read_table(two, "latency").drop(columns="profile"), two, "latency")
    found = [change for change in compare_runs(one, two) if change.table == "latency"]
    assert [change.reason for change in found] == ["other schema: a table has no column profile"]


def test_rows_and_tables_of_one_run_alone_are_named(pair: Callable[..., tuple[Path, Path]]) -> None:
    one, two = pair()
    write_table(read_table(two, "latency").iloc[:-1], two, "latency")
    (two / "findings.csv").unlink()
    reasons = {(change.table, change.reason) for change in compare_runs(one, two) if change.outcome != "same"}
    assert reasons == {("latency", "only in the first run"), ("findings", "only the first run has the table")}


def test_an_unknown_table_is_compared_by_its_texts() -> None:
    frame = pd.DataFrame({"size": ["s"], "run": ["both"], "lambda": [0.5], "loss": [0.1], "loss_std": [0.01]})
    protocol = protocol_of("mine", frame)
    assert protocol is not None
    assert protocol.keys == ("size", "run", "lambda") and dict(protocol.values) == {"loss": -1}


def test_samples_of_two_resolutions_are_not_guessed() -> None:
    sample = {"model": "DiT-S/2", "batch": 1, "case": "static", "rounds_ms": [1.0, 2.0]}
    row = {"model": "DiT-S/2", "batch": 1, "engine": "static"}
    assert samples_of({"samples": [sample]}, row) == (1.0, 2.0)
    assert samples_of({"samples": [sample, sample]}, row) == ()


def test_intervals_of_ratios() -> None:
    assert median_ratio([2.0] * 5, [3.0] * 5) == (1.5, 1.5)
    low, high = combined((1.0, 0.5, 2.0), (1.0, 1.0, 1.0)) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.5), pytest.approx(2.0))
    assert combined((0.0, 0.0, 1.0), (1.0, 1.0, 1.0)) is None


def run_command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["compare", *arguments])
    return int(str(exit_.value.code))


def test_the_gate_fails_on_a_regression_and_on_nothing(
    pair: Callable[..., tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = map(str, pair(flops=6.0834))
    assert run_command(one, two) == 0
    assert run_command(one, two, "--fail-on-regression", "--out", str(tmp_path / "out")) == 1
    assert "| worse | summary | a | verdict |" in capsys.readouterr().out
    assert "reproduced became deviates" in (tmp_path / "out" / "comparison.csv").read_text()
    assert run_command(two, one, "--fail-on-regression") == 0
    for name in ("findings", "latency", "summary"):
        (Path(two) / f"{name}.csv").unlink()
    write_table(pd.DataFrame({"a": [1]}), Path(two), "other")
    assert run_command(one, two, "--fail-on-regression") == 1
    assert "nothing could be compared" in capsys.readouterr().err


def test_folders_that_are_no_runs_are_refused(make_run: Make, tmp_path: Path) -> None:
    run = make_run(tmp_path / "one")
    with pytest.raises(InputError, match="no such directory"):
        compare_runs(run, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        compare_runs(run, tmp_path / "empty")


def test_what_is_told_begins_with_what_became_worse(pair: Callable[..., tuple[Path, Path]]) -> None:
    text = told(compare_runs(*pair(flops=6.0834)))
    assert text.startswith("0 better, 1 worse, 1 changed, 0 undecided, ")
    assert text.index("| worse |") < text.index("| changed |")
