"""One published number by its claim id: measured now where counting or comparing is enough, else what it waits for."""

from __future__ import annotations

from pathlib import Path

from bench.claims import (
    JUDGED_PAPERS,
    PublishedValue,
    SummaryRow,
    claim_subject,
    judge_facts,
    load_published,
    unmeasured_row,
    write_summary,
)
from bench.flops.measure import count_and_judge
from bench.records import Results, environment_record, take_results
from dydit import InputError, nearest

TIER = "claim"
"""Stands in the row where other runs name their tier."""


def reproduce_claim(claim_id: str, out: Path) -> SummaryRow:
    """Judge one published number, and write summary.csv with its row, run.json, and the tables of what was counted.

    Args:
        claim_id: as in summary.csv, such as `dydit-table8-dit-xl-static-lambda-1.0-flops`.
        out: directory of the results.

    Returns:
        Its row. Speeds and scores of images, which take hours or a GPU, are `not run`, with the command that measures
        them.

    Raises:
        InputError: no published number has this id; the message has the nearest ones.
    """
    published = {value.claim_id: value for name in JUDGED_PAPERS for value in load_published(name)}
    if claim_id not in published:
        raise InputError(
            f"claim {claim_id!r}: no published number has this id; {', '.join(nearest(claim_id, published))}"
        )
    with take_results(out) as results:
        record = environment_record(tier=TIER, claim=claim_id)
        value = published[claim_id]
        row = next((row for row in _judged(value, results) if row.claim_id == claim_id), None)
        row = row or unmeasured_row(value, TIER)
        write_summary([row], results)
        results.write_record(record)
    return row


def _judged(value: PublishedValue, results: Results) -> list[SummaryRow]:
    """The rows that take no longer than counting one network; none where that says nothing about the number."""
    facts = [row for row in judge_facts(JUDGED_PAPERS, TIER) if row.claim_id == value.claim_id]
    about = claim_subject(value)
    if facts or about is None or value.value is None:
        return facts
    return count_and_judge(results, TIER, models=[about.model])
