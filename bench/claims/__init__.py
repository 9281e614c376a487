"""Published tables and measured values enter; verdicts, findings, summary.csv and findings.csv leave.

Uses data, records and machine.
"""

from bench.claims.facts import judge_facts
from bench.claims.finding import (
    Activity,
    Finding,
    Rule,
    StatedClaim,
    findings_count,
    findings_overview,
    read_findings,
    write_findings,
)
from bench.claims.literature import LITERATURE_FILES, LiteraturePoint, literature_points
from bench.claims.paper_tables import (
    HEADLINE_ROWS,
    MAIN_COMPARISON,
    RELEASED_LAMBDAS,
    PublishedSpeed,
    published_fid_ratio,
    published_speeds,
    static_name,
)
from bench.claims.published import PublishedValue, find_published, load_published
from bench.claims.subject import Subject, claim_subject, quantity_kind
from bench.claims.summary import any_deviates, coverage, overview, read_summary, write_summary
from bench.claims.unmeasured import FULL_TIER, JUDGED_PAPERS, unmeasured_row, unmeasured_rows, waiting_row
from bench.claims.verdict import Claim, SummaryRow, Tolerance

__all__ = [
    "FULL_TIER",
    "HEADLINE_ROWS",
    "JUDGED_PAPERS",
    "LITERATURE_FILES",
    "MAIN_COMPARISON",
    "RELEASED_LAMBDAS",
    "Activity",
    "Claim",
    "Finding",
    "LiteraturePoint",
    "PublishedSpeed",
    "PublishedValue",
    "Rule",
    "StatedClaim",
    "Subject",
    "SummaryRow",
    "Tolerance",
    "any_deviates",
    "claim_subject",
    "coverage",
    "find_published",
    "findings_count",
    "findings_overview",
    "judge_facts",
    "literature_points",
    "load_published",
    "overview",
    "published_fid_ratio",
    "published_speeds",
    "quantity_kind",
    "read_findings",
    "read_summary",
    "static_name",
    "unmeasured_row",
    "unmeasured_rows",
    "waiting_row",
    "write_findings",
    "write_summary",
]
