"""The published tables: what ships is sound, and a damaged table is refused with its place named."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bench.claims.published import DIRECTORY, find_published, load_published, names
from bench.records import file_sha256
from dydit.errors import InputError

HEADER = "paper,table,row,dataset,metric,value,unit,source,confidence,note"
ROW = "DyDiT (ICLR 2025),Table 8,DyDiT-XL lambda=0.5,ImageNet-256,FLOPs (MACs),57.88,G,the paper,one-source,"


def write(directory: Path, *lines: str, header: str = HEADER) -> None:
    (directory / "t.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", names())
def test_shipped_tables_load_completely_with_unique_claims(name: str) -> None:
    with (DIRECTORY / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    values = load_published(name)
    assert [(v.row, v.metric, v.printed) for v in values] == [(r["row"], r["metric"], r["value"]) for r in expected]
    assert len({v.claim_id for v in values}) == len(values)
    assert all((v.value is None) == (v.confidence == "not-transcribed") for v in values)


def test_the_shipped_tables_are_those_whose_checksums_are_listed() -> None:
    lines = (DIRECTORY / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert listed == {path.name: file_sha256(path) for path in DIRECTORY.glob("*.csv")}


def test_rows_of_the_literature_say_which_setting_they_are_of() -> None:
    """A label that ended before its numbers, as in `r=`, would leave rows of different settings under one name."""
    assert not [value.row for name in names() for value in load_published(name) if value.row.endswith("=")]


def test_claims_are_unique_across_the_shipped_tables() -> None:
    claims = [value.claim_id for name in names() for value in load_published(name)]
    assert len(names()) == 4 and len(set(claims)) == len(claims)


def test_find_returns_the_printed_value() -> None:
    found = find_published(
        "dydit_iclr2025", table="Table 8", row="DyDiT-XL lambda=0.5", metric="FLOPs (MACs convention)"
    )
    assert (found.value, found.unit, found.decimals) == (57.88, "G", 2)
    assert found.claim_id == "dydit-table8-dydit-xl-lambda-0.5-flops"
    assert found.paper_table == "DyDiT, Table 8"


@pytest.mark.parametrize(
    ("printed", "decimals"), [("6.07", 2), ("118", 0), ("277.00", 2), ("1e-4", 4), ("1e2", 0), ("-0.5", 1)]
)
def test_decimals_are_those_printed(tmp_path: Path, printed: str, decimals: int) -> None:
    write(tmp_path, ROW.replace("57.88", printed))
    assert load_published("t", tmp_path)[0].decimals == decimals


def test_a_value_not_transcribed_has_no_decimals(tmp_path: Path) -> None:
    write(tmp_path, ROW.replace("57.88", "").replace("one-source", "not-transcribed"))
    (value,) = load_published("t", tmp_path)
    assert value.value is None
    with pytest.raises(InputError, match="not transcribed"):
        _ = value.decimals


def test_equal_slugs_are_numbered_in_file_order(tmp_path: Path) -> None:
    write(tmp_path, ROW, ROW.replace("Table 8", "Table 8 (quoted)"), ROW.replace("the paper", "another"))
    claim = "dydit-table8-dydit-xl-lambda-0.5-flops"
    assert [v.claim_id for v in load_published("t", tmp_path)] == [claim, f"{claim}-2", f"{claim}-3"]


def test_another_data_set_stands_in_the_claim_id(tmp_path: Path) -> None:
    write(tmp_path, ROW.replace("ImageNet-256", "CIFAR-10"))
    assert load_published("t", tmp_path)[0].claim_id == "dydit-table8-dydit-xl-lambda-0.5-cifar-10-flops"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"57.88": "57,88"}, "line 3: 11 cells instead of 10"),
        ({"57.88": "57.88 G"}, "line 3, column value: '57.88 G' is not a number"),
        ({"57.88": "nan"}, "line 3, column value: 'nan' is not a number"),
        ({"57.88": "inf"}, "line 3, column value: 'inf' is not a number"),
        ({"57.88": ""}, "line 3, column value: '' with confidence one-source"),
        ({"one-source": "not-transcribed"}, "line 3, column value: '57.88' with confidence not-transcribed"),
        ({"one-source": "certain"}, "line 3, column confidence: 'certain'"),
        ({"the paper": " "}, "line 3, column source: empty"),
        ({"Table 8": ""}, "line 3, column table: empty"),
        ({"FLOPs (MACs)": ""}, "line 3, column metric: empty"),
        ({"57.88": '57.88"'}, "line 3, column value"),
        ({"Table 8,": '"Table 8,'}, "not a CSV table"),
    ],
)
def test_a_damaged_row_is_refused_with_its_place(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    damaged = ROW
    for old, new in changes.items():
        damaged = damaged.replace(old, new)
    write(tmp_path, ROW.replace("0.5", "0.7"), damaged)
    with pytest.raises(InputError) as caught:
        load_published("t", tmp_path)
    assert "t.csv" in str(caught.value) and message in str(caught.value)


def test_a_repeated_row_is_refused_even_with_another_value(tmp_path: Path) -> None:
    write(tmp_path, ROW, ROW.replace("57.88", "57.89"))
    with pytest.raises(InputError, match=r"line 3, column row: 'DyDiT-XL lambda=0.5' repeats line 2"):
        load_published("t", tmp_path)


def test_lines_are_counted_in_the_file_not_in_rows(tmp_path: Path) -> None:
    write(tmp_path, ROW + '"two\nlines"', ROW.replace("57.88", "x"))
    with pytest.raises(InputError, match="line 4, column value"):
        load_published("t", tmp_path)


@pytest.mark.parametrize("header", ["", HEADER.replace("note", "remark"), HEADER + ",more"])
def test_other_columns_are_refused(tmp_path: Path, header: str) -> None:
    write(tmp_path, ROW, header=header)
    with pytest.raises(InputError, match="line 1: columns are"):
        load_published("t", tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(HEADER.encode() + b"\n\xff\xfe\n")
    with pytest.raises(InputError, match="not a CSV table in UTF-8"):
        load_published("t", tmp_path)


def test_an_unknown_table_is_refused_with_the_names_at_hand(tmp_path: Path) -> None:
    write(tmp_path, ROW)
    with pytest.raises(InputError, match=r"no published table 'dydit' .* choose from: t$"):
        load_published("dydit", tmp_path)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"row": "DyDiT-XL lambda=0.55"}, "0 rows match .*lambda=0.55.*row has: DyDiT-XL lambda=0.5"),
        ({"metric": "FLOPs"}, r"0 rows match .*metric has: FLOPs \(MACs\)"),
        ({"dataset": "ImageNet-512"}, "0 rows match .*dataset='ImageNet-512'"),
        ({}, "2 rows match .*name the dataset"),
    ],
)
def test_find_wants_exactly_one_row(tmp_path: Path, asked: dict[str, str], message: str) -> None:
    write(tmp_path, ROW, ROW.replace("ImageNet-256", "CIFAR-10"))
    cells = {"table": "Table 8", "row": "DyDiT-XL lambda=0.5", "metric": "FLOPs (MACs)"} | asked
    with pytest.raises(InputError, match=message):
        find_published("t", directory=tmp_path, **cells)


def test_find_tells_data_sets_apart(tmp_path: Path) -> None:
    write(tmp_path, ROW, ROW.replace("ImageNet-256", "CIFAR-10").replace("57.88", "1.5"))
    cells = {"table": "Table 8", "row": "DyDiT-XL lambda=0.5", "metric": "FLOPs (MACs)"}
    assert find_published("t", dataset="CIFAR-10", directory=tmp_path, **cells).value == 1.5
