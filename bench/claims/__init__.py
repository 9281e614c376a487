"""Published tables and measured values enter; verdicts and summary.csv leave.

Uses records and machine.
"""

from bench.claims.paper_tables import (
    PublishedSpeed,
    published_ablation_fid,
    published_fid_ratio,
    published_speeds,
    static_name,
)
from bench.claims.published import PublishedValue, find_published, load_published
from bench.claims.summary import overview, read_summary, write_summary
from bench.claims.unmeasured import JUDGED_PAPERS, unmeasured_rows
from bench.claims.verdict import Claim, SummaryRow, Tolerance

__all__ = [
    "JUDGED_PAPERS",
    "Claim",
    "PublishedSpeed",
    "PublishedValue",
    "SummaryRow",
    "Tolerance",
    "find_published",
    "load_published",
    "overview",
    "published_ablation_fid",
    "published_fid_ratio",
    "published_speeds",
    "read_summary",
    "static_name",
    "unmeasured_rows",
    "write_summary",
]
