"""A whole run, small: every published number has one row, and every verdict follows from the numbers beside it.

The rules are written down here once more and applied to the files alone, so that a verdict by another rule is seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from bench.claims import JUDGED_PAPERS, load_published, read_findings, read_summary
from bench.machine import cpu_threads
from bench.records import Results, read_run
from bench.report.readme import committed_run
from bench.reproduction import reproduce
from bench.reproduction.reproduce import Reproduction
from bench.studies.samples import Sampling


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Reproduction]]:
    """Tier `smoke` with 20 images of each study in 2 steps."""
    directory = tmp_path_factory.mktemp("reproduce")
    with pytest.MonkeyPatch.context() as patch, cpu_threads(1), threadpool_limits(1):
        patch.setitem(reproduce.TIERS, "smoke", dict.fromkeys(("digits", "fashion"), Sampling(images=20, steps=2)))
        results = Results(directory)
        made = reproduce.reproduce(results, "smoke")
        results.write_record(made.record)
        yield directory, made


def test_every_published_number_has_one_row(run: tuple[Path, Reproduction]) -> None:
    directory, made = run
    ids = [row.claim_id for row in made.rows]
    published = {value.claim_id for name in JUDGED_PAPERS for value in load_published(name)}
    assert len(ids) == len(set(ids)) and published <= set(ids)
    assert read_summary(directory) == made.rows and read_findings(directory) == made.findings
    for name in ("summary", "findings", "flops", "quality"):
        assert (directory / f"{name}.csv").is_file() and (directory / f"{name}.md").is_file()
    assert read_run(directory)["tier"] == "smoke"
    static = next(row for row in made.rows if row.claim_id == "dydit-table8-dit-xl-static-lambda-1.0-flops")
    assert static.verdict == "reproduced" and static.measured == pytest.approx(118.69, abs=0.005)


def test_every_verdict_follows_from_its_numbers(run: tuple[Path, Reproduction]) -> None:
    assert set(_table(run[0], "summary")["verdict"]) == {"reproduced", "deviates", "not run"}
    _check_summary(run[0])
    _check_findings(run[0])
    findings = _table(run[0], "findings")
    assert "published" not in findings and len(findings) == 18
    assert set(findings["seeds"]) == {1} and findings["note"].str.contains("does not contain what trainings").all()


def test_every_committed_verdict_follows_from_its_numbers() -> None:
    _check_summary(committed_run("results"))
    for section in ("results", "study"):
        _check_findings(committed_run(section))


def _table(directory: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(directory / f"{name}.csv", keep_default_na=False, na_values=[""])


def _check_summary(directory: Path) -> None:
    """Within the tolerance or not, both ends where there is an interval; the slack is for what floats do not hold."""
    for row in _table(directory, "summary").itertuples():
        if row.verdict == "not run":
            assert pd.isna(row.measured) and row.note, row.claim_id
            continue
        width = re.match(r"±(\S+) |-(\S+)/\+(\S+) ", row.tolerance)
        assert width is not None, row.claim_id
        below, above = float(width[1] or width[2]), float(width[1] or width[3])
        judged = [row.measured] if pd.isna(row.low) else [row.low, row.high]
        accepted = {-below - 1e-9 <= value - row.published <= above + 1e-9 for value in judged}
        assert accepted == {row.verdict == "reproduced"}, row.claim_id
        assert row.verdict == "reproduced" or row.confidence != "one-source" or "one source" in row.note, row.claim_id


def _check_findings(directory: Path) -> None:
    for row in _table(directory, "findings").itertuples():
        if row.activity < 0.02:
            wanted = "not exercised"
        elif row.at_least < row.low and row.high < row.at_most:
            wanted = "supported"
        elif row.high < row.at_least or row.low > row.at_most:
            wanted = "contradicted"
        else:
            wanted = "inconclusive"
        assert row.verdict == wanted, row.finding_id
        assert row.low <= row.measured <= row.high, row.finding_id
        borders = [f"{border:g}" for border in (row.at_least, row.at_most) if not math.isinf(border)]
        assert borders and all(border in row.rule for border in borders), row.finding_id


def test_findings_are_no_published_numbers(run: tuple[Path, Reproduction]) -> None:
    _, made = run
    assert not any("digits" in row.row or "digits" in row.metric for row in made.rows)
    assert all(finding.paper_table.startswith("DyDiT, ") for finding in made.findings)
