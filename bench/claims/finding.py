"""Findings: claims of the paper tried on other networks or data, with an interval and a verdict that follows from it.

A finding has no published number beside it, since the paper measured something else. The rule that decides is stated
with the claim, before anything is measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd

from bench.claims.rows import read_rows, write_rows
from bench.claims.verdict import interval_is_inside
from bench.records import Results, to_markdown
from dydit import InputError

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_EXERCISED = FINDING_VERDICTS = (
    "supported",
    "contradicted",
    "inconclusive",
    "not exercised",
)
LEAST_ACTIVITY = 0.02
"""Share of decisions in which a mechanism must act before anything can be said of it.

A router that acts less often changes less of the network than training it twice does: one token in fifty.
"""


@dataclass(frozen=True)
class Rule:
    """Where a measured quantity lies when a claim holds: between two borders, one of which may be infinite, and why.

    Raises:
        InputError: borders that exclude everything or nothing, or no reason.
    """

    at_least: float
    at_most: float
    reason: str

    def __post_init__(self) -> None:
        if not self.at_least < self.at_most or (math.isinf(self.at_least) and math.isinf(self.at_most)):
            raise InputError(
                f"rule: from {self.at_least} to {self.at_most}; name borders that leave room on both sides"
            )
        if not self.reason.strip():
            raise InputError("rule: no reason; say why the border lies there")

    @classmethod
    def below(cls, border: float, reason: str) -> Self:
        """The claim has one direction: less than the border."""
        return cls(-math.inf, border, reason)

    @classmethod
    def within(cls, centre: float, margin: float, reason: str) -> Self:
        """The claim is that two things are alike: neither less nor more than a margin apart."""
        return cls(centre - margin, centre + margin, reason)

    def __str__(self) -> str:
        if math.isinf(self.at_least):
            return f"below {self.at_most:g} ({self.reason})"
        if math.isinf(self.at_most):
            return f"above {self.at_least:g} ({self.reason})"
        return f"between {self.at_least:g} and {self.at_most:g} ({self.reason})"


def finding_verdict(low: float, high: float, at_least: float, at_most: float, activity: float) -> str:
    """The verdict, which follows from these numbers alone.

    Args:
        low: lower end of the interval of what was measured.
        high: upper end.
        at_least: lower border of the rule.
        at_most: upper border.
        activity: share of decisions in which the mechanism acted, from 0 to 1.

    Returns:
        `not exercised` below `LEAST_ACTIVITY`, whatever the interval; else `supported` where the interval lies wholly
        between the borders, `contradicted` where it lies wholly outside, `inconclusive` where it contains a border.
    """
    if activity < LEAST_ACTIVITY:
        return NOT_EXERCISED
    inside = interval_is_inside(low, high, at_least, at_most)
    return {True: SUPPORTED, False: CONTRADICTED, None: INCONCLUSIVE}[inside]


@dataclass(frozen=True)
class Activity:
    """How often the mechanism that a claim is about acted.

    `mechanism` names it, `share` is the share of decisions in which it acted (of the least active one, where a claim
    needs several), `rates` tells what all routers did.
    """

    mechanism: str
    share: float
    rates: str

    @property
    def exercised(self) -> bool:
        """Whether it acted often enough for anything to be said of it."""
        return self.share >= LEAST_ACTIVITY

    def __str__(self) -> str:
        return f"{self.mechanism}: {self.share:.2%} of decisions"


@dataclass(frozen=True)
class StatedClaim:
    """A claim of the paper in words, with what will be measured and the rule by which that decides.

    `paper_table` says where the claim stands in the paper; its numbers are not taken over.
    """

    finding_id: str
    claim: str
    paper_table: str
    quantity: str
    rule: Rule

    def judge(
        self,
        measured: float,
        interval: tuple[float, float],
        activity: Activity,
        *,
        seeds: int,
        evidence: str,
        note: str = "",
    ) -> Finding:
        """The finding; `seeds` counts independent trainings, `note` says what the interval contains and what not.

        Raises:
            InputError: see `Finding`.
        """
        low, high = interval
        notes = [note] if note else []
        if not activity.exercised:
            notes.insert(0, f"the mechanism did not act ({activity}), so the two sides do not differ in it")
        return Finding(
            finding_id=self.finding_id,
            claim=self.claim,
            paper_table=self.paper_table,
            quantity=self.quantity,
            measured=float(measured),
            low=float(low),
            high=float(high),
            at_least=self.rule.at_least,
            at_most=self.rule.at_most,
            seeds=seeds,
            mechanism=activity.mechanism,
            activity=float(activity.share),
            rates=activity.rates,
            verdict=finding_verdict(low, high, self.rule.at_least, self.rule.at_most, activity.share),
            rule=str(self.rule),
            evidence=evidence,
            note="; ".join(notes),
        )


@dataclass(frozen=True)
class Finding:
    """One row of `findings.csv`; the fields are its columns, in order.

    `measured` with the interval from `low` to `high` is compared with the borders `at_least` and `at_most` of the rule
    (infinite: no border on that side).

    Raises:
        InputError: an empty text, numbers that are no interval or no share, or a verdict that does not follow.
    """

    finding_id: str
    claim: str
    paper_table: str
    quantity: str
    measured: float
    low: float
    high: float
    at_least: float
    at_most: float
    seeds: int
    mechanism: str
    activity: float
    rates: str
    verdict: str
    rule: str
    evidence: str
    note: str

    def __post_init__(self) -> None:
        for column in ("finding_id", "claim", "paper_table", "quantity", "mechanism", "rates", "rule", "evidence"):
            if not getattr(self, column):
                raise InputError(f"finding {self.finding_id or '(no name)'}: {column} is empty; every finding has one")
        if not (math.isfinite(self.low) and self.low <= self.measured <= self.high and math.isfinite(self.high)):
            raise InputError(f"{self.finding_id}: {self.measured} in [{self.low}, {self.high}] is no interval")
        if self.seeds < 1 or not 0.0 <= self.activity <= 1.0:
            raise InputError(f"{self.finding_id}: {self.seeds} seeds, activity {self.activity}; give 1 or more, 0 to 1")
        wanted = finding_verdict(self.low, self.high, self.at_least, self.at_most, self.activity)
        if self.verdict != wanted:
            raise InputError(f"{self.finding_id}: verdict {self.verdict!r}; from its numbers follows {wanted!r}")


_NUMBERS = dict.fromkeys(("measured", "low", "high", "at_least", "at_most", "activity"), float) | {"seeds": int}


def write_findings(findings: Sequence[Finding], results: Results) -> Path:
    """Write `findings.csv` and `findings.md`, in the order given. Returns the CSV.

    Raises:
        InputError: two findings with one name.
    """
    return write_rows(findings, Finding, _NUMBERS, results, "findings", findings_count(findings))


def read_findings(directory: Path) -> tuple[Finding, ...]:
    """The rows of `findings.csv`.

    Raises:
        InputError: no such file, other columns, or a row that contradicts itself (see `Finding`).
    """
    return read_rows(directory, "findings", Finding, _NUMBERS)


def findings_count(findings: Sequence[Finding]) -> str:
    """How many findings have which verdict, in a sentence."""
    counts = Counter(finding.verdict for finding in findings)
    totals = ", ".join(f"{counts[verdict]} {verdict}" for verdict in FINDING_VERDICTS)
    return f"{len(findings)} claims of the paper, tried on other networks and data: {totals}."


def findings_overview(findings: Sequence[Finding]) -> str:
    """How many findings have which verdict, and the findings as a markdown table."""
    frame = pd.DataFrame(
        [
            {
                "claim": finding.claim,
                "source": finding.paper_table,
                "quantity": finding.quantity,
                "measured": f"{finding.measured:.3f}",
                "95 % interval": f"{finding.low:.3f} to {finding.high:.3f}",
                "supported when": finding.rule.split(" (")[0],
                "seeds": finding.seeds,
                "verdict": _shown_verdict(finding),
            }
            for finding in findings
        ]
    )
    return f"{findings_count(findings)}\n\n{to_markdown(frame)}"


def _shown_verdict(finding: Finding) -> str:
    if finding.verdict != NOT_EXERCISED:
        return finding.verdict
    return f"{finding.verdict} ({Activity(finding.mechanism, finding.activity, finding.rates)})"
