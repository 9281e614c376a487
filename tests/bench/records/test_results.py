"""Results of a run: a record never stands beside files that it does not describe, and no change goes unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bench.records import Results, read_json, read_kept, read_run, read_table, take_results, write_json
from dydit import InputError


def table(value: int) -> pd.DataFrame:
    return pd.DataFrame({"a": [value]})


def flip(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_record_is_removed_before_the_first_file_and_written_last(tmp_path: Path) -> None:
    with take_results(tmp_path) as results:
        results.write_table(table(1), "t")
        results.write_record({"run": 1})
        before = (tmp_path / "run.json").read_bytes()
    with take_results(tmp_path) as results:
        assert (tmp_path / "run.json").read_bytes() == before  # so far nothing was changed
        with pytest.raises(KeyboardInterrupt), results.new_file("figure.png") as partial:
            assert not (tmp_path / "run.json").exists()
            partial.write_bytes(b"half")
            raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {"t.csv", "t.md"}


def test_a_record_holds_the_checksums_of_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a\n1\n")
    results = Results(tmp_path)
    results.write_table(table(1), "t")
    with results.new_file("figure.png") as partial:
        partial.write_bytes(b"")
    results.write_record({"run": 1})
    record = read_run(tmp_path)
    assert record["run"] == 1 and list(record["files"]) == ["figure.png", "t.csv"]
    flip(tmp_path / "t.csv", "1", "3")
    with pytest.raises(InputError, match=r"t\.csv: is not the file that run\.json is the record of"):
        read_table(tmp_path, "t")
    flip(tmp_path / "other.csv", "1", "2")
    assert read_table(tmp_path, "other")["a"].tolist() == [2]  # whatever it is of, it is not of this run


def test_files_may_be_added_to_a_record_that_stands_meanwhile(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for name in ("measured", "judged"):
        results.write_table(table(1), name)
    results.write_record({"run": 1})
    again = Results(tmp_path, read_run(tmp_path))
    again.write_table(table(2), "judged")
    assert list(read_run(tmp_path)["files"]) == ["measured.csv"]
    again.write_record({"run": 1, "judged": "again"})
    assert list(read_run(tmp_path)["files"]) == ["judged.csv", "measured.csv"]
    assert read_table(tmp_path, "judged")["a"].tolist() == [2]


def test_a_record_that_changed_is_refused_and_one_without_checksum_is_read(tmp_path: Path) -> None:
    path = write_json({"seed": 3, "nested": {1: (1.5, None)}}, tmp_path / "r.json")
    content = read_json(path, "")
    assert content == {"seed": 3, "nested": {"1": [1.5, None]}}
    path.write_text(json.dumps({"seed": 7}))
    assert read_json(path, "") == {"seed": 7}
    for old, new in (('"seed": 3', '"seed": 7'), ("content_sha256", "conteft_sha256")):
        write_json(content, path)
        flip(path, old, new)
        with pytest.raises(InputError, match=r"r\.json: its content is not what its content_sha256 says.*; make it"):
            read_json(path, "make it again")


def test_what_was_kept_is_used_for_the_same_identity_and_whole_files_alone(tmp_path: Path) -> None:
    path, image = tmp_path / "kept.json", tmp_path / "images.npz"
    image.write_bytes(b"1")
    results = Results(tmp_path)
    with results.new_file(image.name) as partial:
        partial.write_bytes(b"1")
    record = {"identity": {"seed": 1}, "files": results._sums}
    write_json(record, path)
    assert read_kept(path, {"seed": 1}, [image.name]) == record
    assert read_kept(path, {"seed": 2}) is None and read_kept(tmp_path / "absent.json", {"seed": 1}) is None
    assert read_kept(path, {"seed": 1}, ["another.npz"]) is None
    image.write_bytes(b"2")
    assert read_kept(path, {"seed": 1}, [image.name]) is None and read_kept(path, {"seed": 1}) == record
    flip(path, '"seed": 1', '"seed": 2')
    assert read_kept(path, {"seed": 2}) is None
