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
COLUMNS = (
    "claim_id,paper_table,row,metric,unit,published,measured,tolerance,verdict,tier,evidence,note,"
    "confidence,low,high,command,needs"
)
LOWER = Tolerance(math.inf, 0.3, "the claim is a lower value: below 1")


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
        ({"confidence": ""}, "confidence is empty"),
        ({"verdict": "deviates"}, "follows 'reproduced'"),
        ({"measured": 0.9}, "follows 'deviates'"),
        ({"tolerance": "close (enough)"}, "tolerance 'close"),
        ({"low": 0.6, "high": 0.8}, "follows 'not run'"),
        ({"measured": 0.9, "verdict": "deviates"}, "one source; the note must say so"),
    ],
)
def test_a_row_cannot_contradict_itself(changes: dict[str, object], message: str) -> None:
    row = SummaryRow.judged(CLAIM, 0.7, NEAR, "smoke", "flops.csv", "note")
    with pytest.raises(InputError, match=message):
        dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def test_a_deviation_from_a_value_with_one_source_says_so() -> None:
    row = SummaryRow.judged(CLAIM, 0.9, NEAR, "smoke", "flops.csv", "cut off")
    assert (row.confidence, row.note) == ("one-source", "cut off; the published value has one source")
    sure = dataclasses.replace(CLAIM, confidence="two-sources")
    assert SummaryRow.judged(sure, 0.9, NEAR, "smoke", "flops.csv", "cut off").note == "cut off"
    assert SummaryRow.judged(CLAIM, 0.7, NEAR, "smoke", "flops.csv").note == ""


@pytest.mark.parametrize(
    ("tolerance", "interval", "verdict"),
    [
        (LOWER, (0.85, 0.99), "reproduced"),
        (LOWER, (1.01, 1.10), "deviates"),
        (LOWER, (0.85, 1.10), "not run"),
        (NEAR, (0.69, 0.71), "reproduced"),
        (NEAR, (0.50, 0.90), "not run"),
        (NEAR, (0.73, 0.90), "deviates"),
    ],
)
def test_an_interval_decides_when_it_lies_on_one_side(
    tolerance: Tolerance, interval: tuple[float, float], verdict: str
) -> None:
    row = SummaryRow.judged(CLAIM, sum(interval) / 2, tolerance, "full", "headline.csv", "24 images", interval=interval)
    assert row.verdict == verdict
    if verdict == "not run":
        assert row.measured is None and row.needs == "more images"
        assert row.note.startswith("undecided: measured ") and row.note.endswith("24 images")
    else:
        assert (row.low, row.high) == interval


@pytest.mark.parametrize("tolerance", [NEAR, LOWER, Tolerance(0.25, 0.0, "a | b (c)"), Tolerance.rounding(3)])
def test_a_tolerance_is_read_as_it_is_written(tolerance: Tolerance) -> None:
    assert Tolerance.read(str(tolerance)) == tolerance
