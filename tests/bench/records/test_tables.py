"""Files come back as they were written, or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.records import run_record, tables
from bench.records.tables import read_table, to_markdown, write_table
from dydit.errors import InputError


def test_a_table_comes_back_exactly(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"model": ["a|b", "NA", "None"], "macs": [1, 2, 3], "ratio": [1 / 3, math.nan, 1e-17], "note": ["x", None, "y"]}
    )
    assert write_table(frame, tmp_path, "flops") == tmp_path / "flops.csv"
    back = read_table(tmp_path, "flops")
    pd.testing.assert_frame_equal(back, frame, check_dtype=False, check_exact=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flops.csv", "flops.md"]


def test_markdown_is_for_reading(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"a|b": ["x|y", "two\nlines"], "v": [118.6891234, math.nan], "n": [1.186e11, 3.0], "i": [7, 8], "o": [None, 1]}
    )
    assert to_markdown(frame).splitlines() == [
        r"| a\|b | v | n | i | o |",
        "| :--- | ---: | ---: | ---: | ---: |",
        r"| x\|y | 118.689 | 118600000000 | 7 |  |",
        "| two lines |  | 3 | 8 | 1 |",
    ]


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"a": [], "b": []}), tmp_path, "empty")
    assert list(read_table(tmp_path, "empty").columns) == ["a", "b"]
    assert (tmp_path / "empty.md").read_text().startswith("| a | b |")


def test_floats_come_back_to_the_last_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.standard_normal(5000) * 10.0 ** generator.integers(-20, 20, 5000)
    write_table(pd.DataFrame({"x": values}), tmp_path, "t")
    np.testing.assert_array_equal(read_table(tmp_path, "t")["x"].to_numpy(), values)


def test_a_failed_table_leaves_the_old_one_and_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(pd.DataFrame({"a": [1]}), tmp_path, "t")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def fail(_: pd.DataFrame) -> str:
        raise RuntimeError("disk full")

    monkeypatch.setattr(tables, "to_markdown", fail)
    with pytest.raises(RuntimeError):
        write_table(pd.DataFrame({"a": [2]}), tmp_path, "t")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", [None, "", 'a,b\n"1,2\n', "a,b\n1,2,3\n4,5,6,7\n"])
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=r"t\.csv: (cannot be read|not a CSV table)"):
        read_table(tmp_path, "t")


def test_a_sentence_stands_above_the_table_for_reading_alone(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"a": [1]}), tmp_path, "t", lead="One row.")
    assert (tmp_path / "t.md").read_text() == "One row.\n\n| a |\n| ---: |\n| 1 |\n"
    assert (tmp_path / "t.csv").read_text() == "a\n1\n"


def test_numbers_may_stay_the_text_that_was_written(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"a": [1.5, math.nan], "b": ["NA", "x"]}), tmp_path, "t")
    back = read_table(tmp_path, "t", text=True)
    assert back["a"].tolist()[0] == "1.5" and pd.isna(back["a"][1]) and back["b"].tolist() == ["NA", "x"]


def test_a_run_comes_back_with_its_schema_version(tmp_path: Path) -> None:
    record = {"command": "python -m bench flops", "cpu": {"model": "§"}, "schema_version": 99}
    run_record.write_run(record, tmp_path)
    assert run_record.read_run(tmp_path) == record | {"schema_version": run_record.SCHEMA_VERSION}
    assert next(iter(json.loads((tmp_path / "run.json").read_text(encoding="utf-8")))) == "schema_version"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ('{"schema_version": 1', "not JSON"),
        ("[1]", "holds a JSON list"),
        ("{}", "schema_version is 'None'"),
        ('{"schema_version": "1"}', "schema_version is '1'"),
        ('{"schema_version": 0}', "schema_version is '0'"),
        ('{"schema_version": 2}', "schema_version 2 is newer than 1"),
    ],
)
def test_a_run_record_that_cannot_be_used_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=message):
        run_record.read_run(tmp_path)


@pytest.mark.parametrize("record", [{"x": math.nan}, {"x": object()}])
def test_a_record_unfit_for_json_leaves_the_old_file(tmp_path: Path, record: dict[str, Any]) -> None:
    path = run_record.write_json({"x": 1}, tmp_path / "r.json")
    with pytest.raises((ValueError, TypeError)):
        run_record.write_json(record, path)
    assert run_record.read_json(path, "") == {"x": 1} and list(tmp_path.iterdir()) == [path]
