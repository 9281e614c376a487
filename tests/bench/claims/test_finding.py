"""The verdict of a finding follows from interval, borders and activity alone, and no other can be written or read."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from bench.claims.finding import (
    FINDING_VERDICTS,
    Activity,
    Finding,
    Rule,
    StatedClaim,
    finding_verdict,
    findings_overview,
    read_findings,
    write_findings,
)
from bench.records import Results
from dydit.errors import InputError

BETTER = Rule.below(1.0, "the claim is a direction")
KEPT = Rule.within(1.0, 0.05, "smaller than the effect in question")
ACTIVE = Activity("heads closed by DyDiT", 0.47, "DyDiT: open heads 0.530")
ASLEEP = Activity("tokens skipped by DyDiT", 0.0008, "DyDiT: open tokens 0.9992")


def finding(rule: Rule = BETTER, interval: tuple[float, float] = (0.65, 0.82), activity: Activity = ACTIVE) -> Finding:
    claim = StatedClaim("study-random-m", "Learned beats random", "DyDiT, Table 3", "FID ratio", rule)
    return claim.judge(sum(interval) / 2, interval, activity, seeds=3, evidence="runs.csv", note="over seeds")


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (BETTER, 0.646, 0.817, "supported"),  # learned / random routing
        (BETTER, 1.011, 1.197, "contradicted"),  # the largest size at lambda 0.5 over its own start
        (BETTER, 0.893, 1.116, "inconclusive"),
        (BETTER, 0.9, 1.0, "inconclusive"),  # the border itself belongs to no side
        (BETTER, 1.0, 1.1, "inconclusive"),
        (KEPT, 0.971, 1.017, "supported"),
        (KEPT, 0.893, 1.116, "inconclusive"),  # wider than the margin on both sides
        (KEPT, 0.93, 1.01, "inconclusive"),
        (KEPT, 0.80, 0.94, "contradicted"),  # quality gained is not quality kept
        (KEPT, 1.06, 1.20, "contradicted"),
        (Rule(1.0, math.inf, "more"), 1.1, 1.2, "supported"),
        (Rule(1.0, math.inf, "more"), 0.8, 0.9, "contradicted"),
    ],
)
def test_the_verdict_follows_from_the_interval(rule: Rule, low: float, high: float, verdict: str) -> None:
    assert finding_verdict(low, high, rule.at_least, rule.at_most, 0.5) == verdict
    assert finding(rule, (low, high)).verdict == verdict


@pytest.mark.parametrize(("share", "exercised"), [(0.0, False), (0.0199, False), (0.02, True), (1.0, True)])
@pytest.mark.parametrize("interval", [(0.6, 0.8), (0.9, 1.1), (1.2, 1.3)])
def test_what_did_not_act_says_nothing_whatever_the_interval(
    share: float, exercised: bool, interval: tuple[float, float]
) -> None:
    row = finding(interval=interval, activity=Activity("tokens skipped by DyDiT", share, "open tokens"))
    assert (row.verdict == "not exercised") is not exercised
    assert (f"tokens skipped by DyDiT: {share:.2%} of decisions" in row.note) is not exercised


def test_the_verdicts_are_those_promised() -> None:
    assert FINDING_VERDICTS == ("supported", "contradicted", "inconclusive", "not exercised")


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ((-math.inf, math.inf, "r"), "leave room"),
        ((1.0, 1.0, "r"), "leave room"),
        ((math.nan, 1.0, "r"), "leave room"),
        ((0.0, 1.0, " "), "no reason"),
    ],
)
def test_a_rule_that_decides_nothing_is_refused(borders: tuple[float, float, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rule(*borders)


def test_rules_in_words() -> None:
    assert str(BETTER) == "below 1 (the claim is a direction)"
    assert str(KEPT) == "between 0.95 and 1.05 (smaller than the effect in question)"
    assert str(Rule(2.0, math.inf, "r")) == "above 2 (r)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "contradicted"}, "follows 'supported'"),
        ({"activity": 0.01}, "follows 'not exercised'"),
        ({"high": 1.2}, "follows 'inconclusive'"),
        ({"low": 0.9}, "no interval"),
        ({"measured": math.nan}, "no interval"),
        ({"high": math.inf}, "no interval"),
        ({"seeds": 0}, "0 seeds"),
        ({"activity": 1.1}, "activity 1.1"),
        ({"claim": ""}, "claim is empty"),
        ({"rates": ""}, "rates is empty"),
    ],
)
def test_a_finding_cannot_contradict_itself(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(finding(), **changes)  # type: ignore[arg-type]


def test_findings_come_back_exactly_and_a_changed_verdict_is_refused(tmp_path: Path) -> None:
    rows = [finding(), dataclasses.replace(finding(KEPT, (0.97, 1.01), ASLEEP), finding_id="other")]
    path = write_findings(rows, Results(tmp_path))
    assert read_findings(tmp_path) == tuple(rows)
    assert (
        (tmp_path / "findings.md").read_text().startswith("2 claims of the paper, tried on other networks and data: 1")
    )
    path.write_text(path.read_text().replace(",not exercised,", ",supported,"))
    with pytest.raises(InputError, match=r"findings\.csv, row 2: other: verdict 'supported'.*judge the run again"):
        read_findings(tmp_path)
    with pytest.raises(InputError, match="study-random-m is judged twice"):
        write_findings([finding(), finding()], Results(tmp_path))


def test_people_read_interval_rule_and_the_rate_of_what_did_not_act() -> None:
    text = findings_overview([finding(), finding(activity=ASLEEP)])
    assert "1 supported, 0 contradicted, 0 inconclusive, 1 not exercised." in text
    assert "| 0.735 | 0.650 to 0.820 | below 1 | 3 | supported |" in text
    assert "| not exercised (tokens skipped by DyDiT: 0.08% of decisions) |" in text
