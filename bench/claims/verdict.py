"""Measured against published: a claim, the tolerance it is judged by, and one row of `summary.csv`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Self

from bench.claims.published import PublishedValue
from dydit import InputError

REPRODUCED, DEVIATES, NOT_RUN = VERDICTS = ("reproduced", "deviates", "not run")
ONE_SOURCE = "the published value has one source"
"""Stands in the note of every value that deviates and was read in one place: it may have been read wrongly."""


def interval_is_inside(low: float, high: float, at_least: float, at_most: float) -> bool | None:
    """Whether an interval lies wholly between two borders (True) or wholly outside (False); None: it contains one."""
    if at_least < low and high < at_most:
        return True
    if high < at_least or at_most < low:
        return False
    return None


@dataclass(frozen=True)
class Tolerance:
    """How far a measured value may lie from the published one, on either side, and why that is fair.

    Accepted is published - below <= measured <= published + above, both in the claim's unit. One side may be
    `math.inf` where the claim has one direction.

    Raises:
        InputError: a negative or NaN side, two infinite sides (nothing could fail), or no reason.
    """

    below: float
    above: float
    reason: str

    def __post_init__(self) -> None:
        if not (self.below >= 0 and self.above >= 0):
            raise InputError(f"tolerance: below = {self.below}, above = {self.above}; neither side may be negative")
        if math.isinf(self.below) and math.isinf(self.above):
            raise InputError("tolerance: both sides are infinite, so that no value could deviate; bound one of them")
        if not self.reason.strip():
            raise InputError("tolerance: no reason given; say why this width is fair")

    @classmethod
    def symmetric(cls, width: float, reason: str) -> Self:
        """The same width on both sides."""
        return cls(width, width, reason)

    @classmethod
    def rounding(cls, decimals: int, reason: str = "") -> Self:
        """Half a unit of the last printed decimal: what rounding alone can explain."""
        return cls.symmetric(0.5 * 10.0**-decimals, reason or f"printed to {decimals} decimals")

    @classmethod
    def read(cls, text: str) -> Self:
        """A tolerance as `str` writes it, in the table.

        Raises:
            InputError: another text.
        """
        match = re.fullmatch(
            r"(?:±(?P<width>\S+)|-(?P<below>\S+)/\+(?P<above>\S+)) \((?P<reason>.*)\)", text, re.DOTALL
        )
        if match is None:
            raise InputError(f"tolerance {text!r}: write ±WIDTH (REASON) or -BELOW/+ABOVE (REASON)")
        return cls(float(match["width"] or match["below"]), float(match["width"] or match["above"]), match["reason"])

    def verdict(self, published: float, measured: float, interval: tuple[float, float] | None = None) -> str:
        """The verdict, which follows from these numbers alone.

        Without an interval, `reproduced` where the measured value is accepted and `deviates` elsewhere. With one, the
        whole interval must be accepted, or wholly outside; where it contains a border nothing is decided: `not run`.
        """
        if interval is None:
            return REPRODUCED if self.accepts(published, measured) else DEVIATES
        inside = interval_is_inside(*interval, published - self.below, published + self.above)
        return {True: REPRODUCED, False: DEVIATES, None: NOT_RUN}[inside]

    def accepts(self, published: float, measured: float) -> bool:
        """Whether a measured value lies near enough."""
        # 4 units in the last place: 0.72 lies within 0.02 of 0.7, though the float difference is a hair above.
        slack = 4 * math.ulp(max(abs(published), abs(measured)))
        return -self.below - slack <= measured - published <= self.above + slack

    def __str__(self) -> str:
        width = f"±{self.below:.10g}" if self.below == self.above else f"-{self.below:.10g}/+{self.above:.10g}"
        return f"{width} ({self.reason})"


@dataclass(frozen=True)
class Claim:
    """A published number that stands in no table of `reference_stats/paper`, or that follows from such numbers.

    `confidence` is as in those tables: `one-source` where the page that prints it is the only place, `derived` where
    it is arithmetic on numbers that are printed.
    """

    claim_id: str
    paper_table: str
    row: str
    metric: str
    unit: str
    value: float
    confidence: str = "one-source"


@dataclass(frozen=True)
class SummaryRow:
    """One row of `summary.csv`; the fields are its columns, in order.

    `confidence` says how many sources the published value has. `low` and `high` are the interval that the verdict
    follows from, where it does not follow from the measured value alone. A row that was not run names the `command`
    that would measure it (empty: there is none yet) and what that `needs`, separated by semicolons.

    Built by `judged`, `not_run` or `not_transcribed`, which keep verdict and numbers consistent.

    Raises:
        InputError: an unknown verdict, a verdict without its numbers, tolerance and evidence, one that does not follow
            from them, or a row that was not run but carries a measured value or no reason.
    """

    claim_id: str
    paper_table: str
    row: str
    metric: str
    unit: str
    published: float | None
    measured: float | None
    tolerance: str
    verdict: str
    tier: str
    evidence: str
    note: str
    confidence: str
    low: float | None = None
    high: float | None = None
    command: str = ""
    needs: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"{self.claim_id}: verdict {self.verdict!r}; use one of {', '.join(VERDICTS)}")
        for column in ("claim_id", "tier", "confidence"):
            if not getattr(self, column):
                raise InputError(f"{self.claim_id or 'summary row'}: {column} is empty; every row names its {column}")
        if self.verdict == NOT_RUN:
            if self.measured is not None or not self.note:
                raise InputError(f"{self.claim_id}: a row that was not run has a reason and no measured value")
        else:
            self._check_judged()

    def _check_judged(self) -> None:
        """The numbers are there, and the verdict follows from them."""
        for column in ("published", "measured", "tolerance", "evidence"):
            value = getattr(self, column)
            if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
                raise InputError(f"{self.claim_id}: {column} = {value!r}; a verdict needs it given and finite")
        assert self.published is not None and self.measured is not None
        interval = None if self.low is None or self.high is None else (self.low, self.high)
        wanted = Tolerance.read(self.tolerance).verdict(self.published, self.measured, interval)
        if self.verdict != wanted:
            raise InputError(f"{self.claim_id}: verdict {self.verdict!r}; from its numbers follows {wanted!r}")
        if self.verdict == DEVIATES and self.confidence == "one-source" and ONE_SOURCE not in self.note:
            raise InputError(f"{self.claim_id}: deviates from a value with one source; the note must say so")

    @classmethod
    def judged(
        cls,
        claim: PublishedValue | Claim,
        measured: float,
        tolerance: Tolerance,
        tier: str,
        evidence: str,
        note: str = "",
        interval: tuple[float, float] | None = None,
    ) -> Self:
        """`reproduced` or `deviates`; `measured` is in the claim's unit, `evidence` names the file or table row.

        With an `interval` that contains a border of the tolerance nothing is decided, and the row is `not run`.

        Raises:
            InputError: a measured value that is not finite, no evidence, or a published value not transcribed.
        """
        if claim.value is None:
            raise InputError(f"{claim.claim_id}: published value not transcribed, so nothing can be judged")
        if not math.isfinite(measured):
            raise InputError(f"{claim.claim_id}: measured {measured}; a verdict needs a finite number")
        verdict = tolerance.verdict(claim.value, measured, interval)
        low, high = interval or (None, None)
        if interval is not None and verdict == NOT_RUN:
            low, high = interval
            reason = f"undecided: measured {measured:.4g} [{low:.4g}, {high:.4g}], which contains the border; {note}"
            return cls.not_run(claim, tier, reason.removesuffix("; "), needs="more images")
        if verdict == DEVIATES and claim.confidence == "one-source":
            note = f"{note}; {ONE_SOURCE}" if note else ONE_SOURCE
        head = _head(claim)
        return cls(*head, float(measured), str(tolerance), verdict, tier, evidence, note, claim.confidence, low, high)

    @classmethod
    def not_run(
        cls, claim: PublishedValue | Claim, tier: str, reason: str, *, command: str = "", needs: str = ""
    ) -> Self:
        """A claim that this run could not measure, listed with the reason in its note."""
        head = _head(claim)
        return cls(*head, None, "", NOT_RUN, tier, "", reason, claim.confidence, command=command, needs=needs)

    @classmethod
    def not_transcribed(cls, claim: PublishedValue, tier: str, how: str = "", command: str = "") -> Self:
        """A row of the paper whose number is not at hand: listed with `how` it would be measured, never judged."""
        if claim.value is not None:
            raise InputError(f"{claim.claim_id}: the published value {claim.printed} is transcribed; judge it")
        note = "published value not transcribed" + (f"; {how}" if how else "")
        return cls.not_run(claim, tier, note, command=command, needs="the printed value")


def _head(claim: PublishedValue | Claim) -> tuple[str, str, str, str, str, float | None]:
    return claim.claim_id, claim.paper_table, claim.row, claim.metric, claim.unit, claim.value
