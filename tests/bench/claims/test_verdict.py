"""Verdicts follow from the numbers alone, and a row that contradicts itself cannot be built."""

from __future__ import annotations

import dataclasses
import math

import pytest

from bench.claims.published import PublishedValue, load_published
from bench.claims.verdict import VERDICTS, Claim, SummaryRow, Tolerance
from dydit.errors import InputError

CLAIM = Claim("ratio-0.7", "FLOPs ratio meets lambda", "tiny lambda=0.7", "FLOPs ratio", "", 0.7)
NEAR = Tolerance.symmetric(0.02, "the method's target")
COLUMNS = "claim_id,paper_table,row,metric,unit,published,measured,tolerance,verdict,tier,evidence,note"


def published(transcribed: bool) -> PublishedValue:
    return next(value for value in load_published() if (value.value is not None) == transcribed)


def test_columns_and_verdicts_are_those_promised() -> None:
    assert ",".join(field.name for field in dataclasses.fields(SummaryRow)) == COLUMNS
    assert VERDICTS == ("reproduced", "deviates", "not run")


@pytest.mark.parametrize(
    ("tolerance", "measured", "verdict"),
    [
        (NEAR, 0.72, "reproduced"),  # 0.72 - 0.7 > 0.02 in floats
        (NEAR, 0.68, "reproduced"),
        (NEAR, 0.7200001, "deviates"),
        (NEAR, 0.6799999, "deviates"),
        (Tolerance(0.0, math.inf, "at least"), 1e9, "reproduced"),
        (Tolerance(0.0, math.inf, "at least"), 0.6999, "deviates"),
        (Tolerance(math.inf, 0.1, "better than"), -5.0, "reproduced"),
        (Tolerance(math.inf, 0.1, "better than"), 0.81, "deviates"),
        (Tolerance(0.0, 0.0, "exact"), 0.7, "reproduced"),
        (Tolerance(0.0, 0.0, "exact"), 0.7 + 1e-12, "deviates"),
    ],
)
def test_verdict_by_tolerance(tolerance: Tolerance, measured: float, verdict: str) -> None:
    row = SummaryRow.judged(CLAIM, measured, tolerance, "smoke", "flops.csv")
    assert (row.verdict, row.published, row.measured, row.tolerance) == (verdict, 0.7, measured, str(tolerance))


@pytest.mark.parametrize(
    ("decimals", "value", "inside", "outside"),
    [(2, 118.69, (118.685, 118.695), (118.6849, 118.6951)), (0, 118.0, (117.5, 118.5), (117.49, 118.51))],
)
def test_rounding_accepts_half_a_unit(
    decimals: int, value: float, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    tolerance = Tolerance.rounding(decimals)
    assert all(tolerance.accepts(value, measured) for measured in inside)
    assert not any(tolerance.accepts(value, measured) for measured in outside)


@pytest.mark.parametrize(
    ("tolerance", "text"),
    [
        (Tolerance.rounding(2), "±0.005 (printed to 2 decimals)"),
        (Tolerance.rounding(0, "cut, not rounded"), "±0.5 (cut, not rounded)"),
        (Tolerance(0.2, math.inf, "claim is 'better than'"), "-0.2/+inf (claim is 'better than')"),
    ],
)
def test_tolerance_in_words(tolerance: Tolerance, text: str) -> None:
    assert str(tolerance) == text


@pytest.mark.parametrize(
    ("below", "above", "reason", "message"),
    [
        (-0.1, 0.1, "r", "negative"),
        (0.1, math.nan, "r", "negative"),
        (math.inf, math.inf, "r", "both sides are infinite"),
        (0.1, 0.1, " ", "no reason"),
    ],
)
def test_a_tolerance_that_means_nothing_is_refused(below: float, above: float, reason: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tolerance(below, above, reason)


def test_a_published_value_is_judged_under_its_claim_id() -> None:
    value = published(transcribed=True)
    assert value.value is not None
    row = SummaryRow.judged(value, value.value, Tolerance.rounding(value.decimals), "full", "flops.csv", "a note")
    assert (row.claim_id, row.paper_table, row.row, row.metric, row.unit, row.published, row.note) == (
        value.claim_id,
        value.paper_table,
        value.row,
        value.metric,
        value.unit,
        value.value,
        "a note",
    )


@pytest.mark.parametrize("measured", [math.nan, math.inf, -math.inf])
def test_a_measurement_that_is_no_number_is_never_judged(measured: float) -> None:
    with pytest.raises(InputError, match=r"ratio-0\.7: measured"):
        SummaryRow.judged(CLAIM, measured, NEAR, "smoke", "flops.csv")


def test_a_row_not_run_says_why() -> None:
    row = SummaryRow.not_run(CLAIM, "smoke", "needs a GPU")
    assert (row.verdict, row.published, row.measured, row.note) == ("not run", 0.7, None, "needs a GPU")
    with pytest.raises(InputError, match="has a reason"):
        SummaryRow.not_run(CLAIM, "smoke", "")


def test_a_value_not_transcribed_is_listed_and_never_judged() -> None:
    value = published(transcribed=False)
    row = SummaryRow.not_transcribed(value, "default")
    assert (row.verdict, row.published, row.note) == ("not run", None, "published value not transcribed")
    with pytest.raises(InputError, match="not transcribed"):
        SummaryRow.judged(value, 1.0, NEAR, "default", "quality.csv")
    with pytest.raises(InputError, match="is transcribed; judge it"):
        SummaryRow.not_transcribed(published(transcribed=True), "default")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "close enough"}, "verdict 'close enough'"),
        ({"evidence": ""}, "evidence = ''"),
        ({"measured": None}, "measured = None"),
        ({"published": math.nan}, "published = nan"),
        ({"tolerance": ""}, "tolerance = ''"),
        ({"tier": ""}, "tier is empty"),
        ({"verdict": "not run"}, "no measured value"),
    ],
)
def test_a_row_cannot_contradict_itself(changes: dict[str, object], message: str) -> None:
    row = SummaryRow.judged(CLAIM, 0.7, NEAR, "smoke", "flops.csv", "note")
    with pytest.raises(InputError, match=message):
        dataclasses.replace(row, **changes)  # type: ignore[arg-type]
