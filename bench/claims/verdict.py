"""Measured against published: a claim, the tolerance it is judged by, and one row of `summary.csv`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from bench.claims.published import PublishedValue
from dydit import InputError

VERDICTS = ("reproduced", "deviates", "not run")


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
        return cls(width, width, reason)

    @classmethod
    def rounding(cls, decimals: int, reason: str = "") -> Self:
        """Half a unit of the last printed decimal: what rounding alone can explain."""
        return cls.symmetric(0.5 * 10.0**-decimals, reason or f"printed to {decimals} decimals")

    def accepts(self, published: float, measured: float) -> bool:
        # 4 units in the last place: 0.72 lies within 0.02 of 0.7, though the float difference is a hair above.
        slack = 4 * math.ulp(max(abs(published), abs(measured)))
        return -self.below - slack <= measured - published <= self.above + slack

    def __str__(self) -> str:
        width = f"±{self.below:.4g}" if self.below == self.above else f"-{self.below:.4g}/+{self.above:.4g}"
        return f"{width} ({self.reason})"


@dataclass(frozen=True)
class Claim:
    """A claim that stands in no published table: this suite puts it in words and gives the value to compare with."""

    claim_id: str
    paper_table: str
    row: str
    metric: str
    unit: str
    value: float


@dataclass(frozen=True)
class SummaryRow:
    """One row of `summary.csv`; the fields are its columns, in order.

    Built by `judged`, `not_run` or `not_transcribed`, which keep verdict and numbers consistent.

    Raises:
        InputError: an unknown verdict, a verdict without its numbers, tolerance and evidence, or a row that was
            not run but carries a measured value or no reason.
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

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"{self.claim_id}: verdict {self.verdict!r}; use one of {', '.join(VERDICTS)}")
        for column in ("claim_id", "tier"):
            if not getattr(self, column):
                raise InputError(f"{self.claim_id or 'summary row'}: {column} is empty; every row names its {column}")
        if self.verdict == "not run":
            if self.measured is not None or not self.note:
                raise InputError(f"{self.claim_id}: a row that was not run has a reason and no measured value")
            return
        for column in ("published", "measured", "tolerance", "evidence"):
            value = getattr(self, column)
            if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
                raise InputError(f"{self.claim_id}: {column} = {value!r}; a verdict needs it given and finite")

    @classmethod
    def judged(
        cls,
        claim: PublishedValue | Claim,
        measured: float,
        tolerance: Tolerance,
        tier: str,
        evidence: str,
        note: str = "",
    ) -> Self:
        """`reproduced` or `deviates`; `measured` is in the claim's unit, `evidence` names the file or table row.

        Raises:
            InputError: a measured value that is not finite, no evidence, or a published value not transcribed.
        """
        if claim.value is None:
            raise InputError(f"{claim.claim_id}: published value not transcribed, so nothing can be judged")
        if not math.isfinite(measured):
            raise InputError(f"{claim.claim_id}: measured {measured}; a verdict needs a finite number")
        verdict = "reproduced" if tolerance.accepts(claim.value, measured) else "deviates"
        return cls(*_head(claim), float(measured), str(tolerance), verdict, tier, evidence, note)

    @classmethod
    def not_run(cls, claim: PublishedValue | Claim, tier: str, reason: str) -> Self:
        """A claim that this run could not measure, listed with the reason in its note."""
        return cls(*_head(claim), None, "", "not run", tier, "", reason)

    @classmethod
    def not_transcribed(cls, claim: PublishedValue, tier: str) -> Self:
        """A row of the paper whose number is not at hand: listed, never judged."""
        if claim.value is not None:
            raise InputError(f"{claim.claim_id}: the published value {claim.printed} is transcribed; judge it")
        return cls.not_run(claim, tier, "published value not transcribed")


def _head(claim: PublishedValue | Claim) -> tuple[str, str, str, str, str, float | None]:
    return claim.claim_id, claim.paper_table, claim.row, claim.metric, claim.unit, claim.value
