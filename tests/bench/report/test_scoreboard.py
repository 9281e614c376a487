"""The scoreboard counts the rows of each published table, and its closing lines fit a screen."""

from __future__ import annotations

import pytest

from bench.claims import Claim, SummaryRow, Tolerance, read_summary
from bench.report.readme import committed_run
from bench.report.scoreboard import WIDTH, closing, deviating, score_frame, score_lines, scores

TOLERANCE = Tolerance.symmetric(0.005, "printed to 2 decimals")


def claim(name: str, table: str) -> Claim:
    return Claim(name, table, f"row {name}", "FLOPs", "G", 6.07, "two-sources")


ROWS = [
    SummaryRow.judged(claim("a", "DiT, Table 4"), 6.07, TOLERANCE, "smoke", "flops.csv"),
    SummaryRow.judged(claim("b", "DyDiT, Table 10"), 6.09, TOLERANCE, "smoke", "flops.csv", "another network"),
    SummaryRow.not_run(claim("c", "DyDiT, Table 2"), "smoke", "why", command="x", needs="a GPU; weights"),
    SummaryRow.not_run(claim("d", "DyDiT, Table 2"), "smoke", "why", command="x", needs="a GPU; weights"),
    SummaryRow.not_run(claim("e", "DyDiT, Table 2"), "smoke", "why", command="x"),
]


def test_tables_stand_by_paper_and_number() -> None:
    found = [(score.table, score.numbers, score.reproduced, score.deviates, score.not_run) for score in scores(ROWS)]
    assert found == [("DyDiT, Table 2", 3, 0, 0, 3), ("DyDiT, Table 10", 1, 0, 1, 0), ("DiT, Table 4", 1, 1, 0, 0)]
    assert scores(ROWS)[0].waits_for == "a GPU, weights"
    assert score_frame(ROWS).iloc[-1].tolist() == ["all", 5, 1, 1, 3, ""]
    assert "| [DyDiT, Table 10](page.md#dydit-10) | 1 | 0 | 1 | 0 |  |" in score_lines(ROWS, "page.md")


def test_what_deviates_has_a_line_with_the_reason() -> None:
    assert deviating(ROWS) == ["DyDiT, Table 10, row b, FLOPs: 6.07 published, 6.09 measured; another network"]
    assert "Nothing deviates." in closing(ROWS[:1])


@pytest.mark.parametrize("many", [False, True])
def test_the_closing_lines_fit_a_screen(many: bool) -> None:
    rows = list(read_summary(committed_run()))
    if many:
        worse = [
            SummaryRow.judged(claim(f"w{n}", "DyDiT, Table 8"), 9.0, TOLERANCE, "smoke", "x", "why " * 60)
            for n in range(30)
        ]
        rows += worse
    text = closing(rows)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert len(text.splitlines()) <= (45 if many else 32)
    if many:
        assert "24 more, in summary.csv" in text
