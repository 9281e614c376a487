"""The main job: measure what can be measured here, and give every published number a row and a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims import JUDGED_PAPERS, Finding, SummaryRow, judge_facts, unmeasured_rows, write_findings, write_summary
from bench.flops.checkpoint_macs import measure_released
from bench.flops.measure import count_and_judge
from bench.machine import status
from bench.records import Results, environment_record
from bench.reproduction import headline
from bench.studies.committed import check_shipped, quality_table, score_committed
from bench.studies.committed_findings import committed_findings
from bench.studies.samples import DIRECTORY, SHIPPED_DIGITS, SHIPPED_FASHION, Sampling
from dydit import InputError

TIERS = {
    "smoke": {"digits": Sampling(images=300, steps=25), "fashion": Sampling(images=100, steps=25, batch_size=100)},
    "default": {"digits": Sampling(images=1797, steps=50), "fashion": Sampling(images=500, steps=25, batch_size=100)},
    "full": {"digits": Sampling(images=1797, steps=250), "fashion": Sampling(images=2000, steps=250, batch_size=100)},
}
"""How the models of each study that come with the project are sampled."""


@dataclass(frozen=True)
class Reproduction:
    """What a run says: one row per published number, the paper's claims tried on digits and clothes, and its record."""

    rows: tuple[SummaryRow, ...]
    findings: tuple[Finding, ...]
    record: dict[str, Any]


def reproduce(
    results: Results, tier: str, checkpoints: Path = DIRECTORY, data_root: Path | None = None
) -> Reproduction:
    """Run a tier; writes flops.csv, quality.csv, summary.csv, findings.csv and their markdown twins.

    Args:
        results: where they go, in tier `full` with the generated images; the record is left to be written.
        tier: one of `TIERS`.
        checkpoints: of the study on digits.
        data_root: of the files that tier `full` needs, see `bench.reproduction.headline`.

    Raises:
        InputError: unknown tier, unusable output directory, missing checkpoints or statistics (in tier `full` whatever
            the headline rows lack: all of it, at once); before any long work.
    """
    if tier not in TIERS:
        raise InputError(f"tier {tier!r}: choose one of {', '.join(TIERS)}")
    shipped = {SHIPPED_DIGITS: checkpoints, SHIPPED_FASHION: SHIPPED_FASHION.directory}
    sums = {study.study.name: check_shipped(study, place) for study, place in shipped.items()}
    if tier == "full":
        headline.check_headline("tier full", data_root)
    released = measure_released() if tier == "full" else []
    sampling = TIERS[tier]
    drawn = {name: asdict(each) for name, each in sampling.items()}
    record = environment_record(tier=tier, sampling=drawn, checkpoints_sha256=sums)
    status("FLOPs: closed form, fvcore and torch at true scale")
    rows = count_and_judge(results, tier, checkpoints=released) + judge_facts(JUDGED_PAPERS, tier)
    scores = [score_committed(sampling[study.study.name], place, study) for study, place in shipped.items()]
    results.write_table(pd.concat([quality_table(score) for score in scores], ignore_index=True), "quality")
    findings = [finding for score in scores for finding in committed_findings(score)]
    write_findings(findings, results)
    if tier == "full":
        rows += headline.measure_headline(results, tier, data_root)
    else:
        rows += headline.unmeasured_pairs(tier)
    rows += unmeasured_rows({row.claim_id for row in rows}, tier)
    write_summary(rows, results)
    return Reproduction(tuple(rows), tuple(findings), record)
