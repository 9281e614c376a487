"""The main job: measure what can be measured here, and give every published number a row and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.claims import JUDGED_PAPERS, Finding, SummaryRow, judge_facts, unmeasured_rows, write_findings, write_summary
from bench.flops.checkpoint_macs import measure_released
from bench.flops.measure import count_and_judge
from bench.machine import status
from bench.records import environment_record, prepare_output, write_run, write_table
from bench.reproduction import headline
from bench.studies.committed import quality_table, score_committed
from bench.studies.committed_findings import committed_findings
from bench.studies.samples import DIRECTORY, Sampling, compared_variants, load_stage
from dydit import InputError

TIERS = {
    "smoke": Sampling(images=300, steps=25),
    "default": Sampling(images=1797, steps=50),
    "full": Sampling(images=1797, steps=250),
}


@dataclass(frozen=True)
class Reproduction:
    """What a run says: one row per published number, and the paper's claims tried on the digits."""

    rows: tuple[SummaryRow, ...]
    findings: tuple[Finding, ...]


def reproduce(out: Path, tier: str, checkpoints: Path = DIRECTORY, data_root: Path | None = None) -> Reproduction:
    """Run a tier; `out` gets flops.csv, quality.csv, summary.csv, findings.csv, their markdown twins and run.json.

    Args:
        out: directory of the results; in tier `full` of the generated images, too.
        tier: one of `TIERS`.
        checkpoints: of the study on digits.
        data_root: of the files that tier `full` needs, see `bench.reproduction.headline`.

    Raises:
        InputError: unknown tier, unusable output directory, missing checkpoints (in tier `full` whatever the headline
            rows lack: all of it, at once); before any long work.
    """
    if tier not in TIERS:
        raise InputError(f"tier {tier!r}: choose one of {', '.join(TIERS)}")
    directory = prepare_output(out)
    for variant in compared_variants():
        load_stage(variant.stage, checkpoints)
    if tier == "full":
        headline.check_headline("tier full", data_root)
    released = measure_released() if tier == "full" else []
    sampling = TIERS[tier]
    record = environment_record(tier=tier, seed=sampling.seed, images=sampling.images, steps=sampling.steps)
    status("FLOPs: closed form, fvcore and torch at true scale")
    rows = count_and_judge(directory, tier, checkpoints=released) + judge_facts(JUDGED_PAPERS, tier)
    study = score_committed(sampling, checkpoints)
    write_table(quality_table(study), directory, "quality")
    findings = committed_findings(study)
    write_findings(findings, directory)
    if tier == "full":
        rows += headline.measure_headline(directory, tier, data_root)
    else:
        rows += headline.unmeasured_pairs(tier)
    rows += unmeasured_rows({row.claim_id for row in rows}, tier)
    write_summary(rows, directory)
    write_run(record, directory)
    return Reproduction(tuple(rows), tuple(findings))
