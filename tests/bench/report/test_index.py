"""Every committed run lies in MACHINE/RUN and stands in the index of results/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.records import run_record
from bench.records.tables import write_table
from bench.report.index import LOCAL, RESULTS, committed_runs, index_of_runs, update_index
from dydit import InputError

RECORD: dict[str, Any] = {
    "command": "python -m bench flops",
    "started": "2025-01-31T23:59:00+00:00",
    "commit": "a" * 40,
    "dirty": False,
    "cpu": {"model": "Intel(R) Xeon(R) Processor", "logical_cores": 2},
    "torch": {"devices": []},
}
MACHINE = "cpu-intel-xeon-2-cores"


def make_run(directory: Path, table: str = "flops", **changes: Any) -> Path:
    write_table(pd.DataFrame({"a": [1]}), directory, table)
    run_record.write_run(RECORD | changes, directory)
    return directory


def test_a_run_has_one_row_that_says_what_when_and_by_which_command(tmp_path: Path) -> None:
    make_run(tmp_path / MACHINE / "second", dirty=True)
    make_run(tmp_path / MACHINE / "first", "latency")
    make_run(tmp_path / LOCAL / "flops")
    _, _, first, second = index_of_runs(tmp_path).splitlines()
    assert first == (
        f"| {MACHINE} | [first]({MACHINE}/first/run.json) | [time of each engine]({MACHINE}/first/latency.md) "
        f"| 2025-01-31 | {'a' * 12} | `python -m bench flops` |"
    )
    assert "[second]" in second and f"{'a' * 12} and changes" in second


@pytest.mark.parametrize("place", [MACHINE, f"{MACHINE}/latency/xl", "nvidia-h100/flops"])
def test_a_run_in_another_place_is_refused(tmp_path: Path, place: str) -> None:
    make_run(tmp_path / place)
    with pytest.raises(InputError, match=f"the run in {place} was measured on {MACHINE}; move it to {MACHINE}/RUN"):
        index_of_runs(tmp_path)


def test_a_run_without_a_known_table_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / MACHINE / "odd", "odd")
    with pytest.raises(InputError, match=f"{MACHINE}/odd has none of the tables"):
        index_of_runs(tmp_path)


def test_an_index_that_is_out_of_date_is_seen(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("before\n<!-- runs: begin -->\n<!-- runs: end -->\n")
    make_run(tmp_path / MACHINE / "first")
    assert not update_index(check=True, results=tmp_path) and "first" not in (tmp_path / "README.md").read_text()
    assert not update_index(results=tmp_path)
    assert update_index(check=True, results=tmp_path)
    make_run(tmp_path / MACHINE / "second")
    assert not update_index(check=True, results=tmp_path)


def test_the_committed_index_lists_all_committed_runs() -> None:
    assert update_index(check=True)
    runs = committed_runs()
    # A file outside of every run would have no row.
    for file in RESULTS.rglob("*"):
        parts = file.relative_to(RESULTS).parts
        if file.is_file() and parts[0] != LOCAL and parts not in (("README.md",), ("report.html",)):
            assert RESULTS.joinpath(*parts[:2]) in runs, file
