"""The main job: measure what can be measured here, and give every published number a row and a verdict."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.claims.published import PublishedValue, load_published
from bench.claims.summary import write_summary
from bench.claims.verdict import SummaryRow
from bench.flops.learned_masks import ClaimedMacs, measure_checkpoint
from bench.flops.tables import write_flops
from bench.machine import status
from bench.records import environment_record, prepare_output, write_run, write_table
from bench.reproduction import headline, requirements
from bench.studies.committed import committed_claims, quality_table, score_committed
from bench.studies.samples import DIRECTORY, Sampling, compared_variants, load_stage
from dydit import InputError, checkpoint

TIERS = {
    "smoke": Sampling(images=300, steps=25),
    "default": Sampling(images=1797, steps=50),
    "full": Sampling(images=1797, steps=250),
}
JUDGED_PAPERS = ("dydit_iclr2025", "dit_iccv2023")
_REASONS = {
    "FID": "needs trained ImageNet weights, 50,000 images and reference statistics",
    "s/image": "needs the hardware of the row; `bench latency` times this machine, see results/*/latency-*",
    "acceleration": "needs the hardware of the row; `bench latency` times this machine, see results/*/latency-*",
    "": "not measured by this version of the suite",
}


def reproduce(out: Path, tier: str, checkpoints: Path = DIRECTORY, data_root: Path | None = None) -> list[SummaryRow]:
    """Run a tier and write flops.csv, quality.csv, summary.csv, their markdown twins and run.json into `out`.

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
        requirements.check_requirements(headline.headline_requirements(data_root), "tier full")
    claimed = _released() if tier == "full" else []
    sampling = TIERS[tier]
    record = environment_record(tier=tier, seed=sampling.seed, images=sampling.images, steps=sampling.steps)
    status("FLOPs: closed form, fvcore and torch at true scale")
    rows = write_flops(directory, tier, claimed=claimed)
    study = score_committed(sampling, checkpoints)
    write_table(quality_table(study), directory, "quality")
    rows += committed_claims(study, tier)
    if tier == "full":
        rows += headline.measure_headline(directory, tier, data_root)
    rows += unmeasured({row.claim_id for row in rows}, tier)
    write_summary(rows, directory)
    write_run(record, directory)
    return rows


def _released() -> list[ClaimedMacs]:
    """What the masks of the authors' released checkpoints claim over a whole sampling run; meant for a GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [
        measure_checkpoint(name, "DyDiT-XL/2", target=float(name.rsplit("-", 1)[1]), device=device)
        for name in checkpoint.PUBLISHED
    ]


def unmeasured(measured: set[str], tier: str) -> list[SummaryRow]:
    """A `not run` row, with its reason, for every published number of the judged papers that has none yet."""
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
