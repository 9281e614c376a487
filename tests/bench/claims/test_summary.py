"""`summary.csv` comes back as it was written, and a damaged one is refused; the coverage opens what people read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.claims.summary import coverage, overview, read_summary, write_summary
from bench.claims.verdict import Claim, SummaryRow, Tolerance
from bench.records import Results
from dydit.errors import InputError

CLAIM = Claim("fid-dynamic", "FID, dynamic against static", "tiny lambda=0.7", "FID[digits-cnn]", "FID", 17.0)
SPEED = Claim("speed", "Table 8", "DyDiT-XL", "acceleration", "x", 1.73)
ROWS = (
    SummaryRow.judged(CLAIM, 17 + 1 / 3, Tolerance(1.0, 0.1, "spread | seeds"), "smoke", "quality.csv"),
    SummaryRow.not_run(SPEED, "smoke", "NA: no GPU", command="python -m bench latency", needs="a GPU"),
)


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:], ()])
def test_a_summary_comes_back_exactly(tmp_path: Path, rows: tuple[SummaryRow, ...]) -> None:
    path = write_summary(iter(rows), Results(tmp_path))
    assert path.read_text(encoding="utf-8").splitlines()[0] == (
        "claim_id,paper_table,row,metric,unit,published,measured,tolerance,verdict,tier,evidence,note,"
        "confidence,low,high,command,needs"
    )
    assert read_summary(tmp_path) == rows
    assert (tmp_path / "summary.md").read_text().startswith(coverage(rows))


def test_a_claim_judged_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fid-dynamic is judged twice"):
        write_summary([ROWS[0], ROWS[0]], Results(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("not run", "skipped", "row 2: speed: verdict 'skipped'"),
        ("17.0,", "n/a,", "row 1: could not convert"),
        ("verdict", "result", "columns are"),
        ("quality.csv", "", "row 1: fid-dynamic: evidence"),
        ("deviates", "reproduced", "row 1: fid-dynamic: verdict 'reproduced'; from its numbers follows 'deviates'"),
    ],
)
def test_a_damaged_summary_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_summary(ROWS, Results(tmp_path))
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_summary(tmp_path)


def test_only_judged_rows_are_shown_and_all_are_counted() -> None:
    text = overview(ROWS)
    assert text.startswith(
        "1 of 2 published numbers were measured in this run (0 of FLOPs, 0 of parameters, 0 of speed, "
        "1 of quality); 1 wait: 1 for a GPU. Verdicts: 0 reproduced, 1 deviates, 1 not run."
    )
    assert "| 17 | one-source | 17.333 | -1/+0.1 | deviates | quality.csv |" in text
    assert "acceleration" not in text


def test_nothing_waits_where_all_was_measured() -> None:
    assert coverage(ROWS[:1]).endswith("1 of quality). Verdicts: 0 reproduced, 1 deviates, 0 not run.")


def test_facts_are_compared_and_not_measured() -> None:
    def fact(name: str, measured: float) -> SummaryRow:
        claim = Claim(name, "DyDiT, Table 7", "DiT-S", "layers", "", 12.0, "one-source")
        return SummaryRow.judged(
            claim, measured, Tolerance.symmetric(0.0, "a whole number"), "smoke", "dydit.config", ""
        )

    rows = [*ROWS, fact("agrees", 12.0), fact("differs", 13.0)]
    text = overview(rows)
    assert text.startswith("1 of 4 published numbers were measured in this run (0 of FLOPs, ")
    assert "1 of quality); 2 facts of networks and recipes were compared with the networks and recipes" in text
    assert text.count("| layers |") == 1
    assert text.endswith("Not shown: 1 facts of networks and recipes that are reproduced.")
