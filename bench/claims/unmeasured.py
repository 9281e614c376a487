"""The published numbers that a run did not measure: a row for each, with the reason."""

from __future__ import annotations

from bench.claims.published import PublishedValue, load_published
from bench.claims.verdict import SummaryRow

JUDGED_PAPERS = ("dydit_iclr2025", "dit_iccv2023")
"""Tables of `reference_stats/paper` whose every number has a row in summary.csv."""
_REASONS = {
    "FID": "needs trained ImageNet weights, 50,000 images and reference statistics",
    "s/image": "needs the hardware of the row; `bench latency` times this machine, see results/*/latency-*",
    "acceleration": "needs the hardware of the row; `bench latency` times this machine, see results/*/latency-*",
    "": "not measured by this version of the suite",
}
"""Beginning of a metric's name -> why it was not measured; the first that fits counts."""


def unmeasured_rows(measured: set[str], tier: str) -> list[SummaryRow]:
    """A `not run` row, with its reason, for every number of the judged papers whose claim id is not in `measured`."""
    rows = []
    for name in JUDGED_PAPERS:
        for published in load_published(name):
            if published.claim_id in measured:
                continue
            if published.value is None:
                rows.append(SummaryRow.not_transcribed(published, tier))
            else:
                rows.append(SummaryRow.not_run(published, tier, _reason(published)))
    return rows


def _reason(published: PublishedValue) -> str:
    return next(reason for start, reason in _REASONS.items() if published.metric.startswith(start))
