"""The paper's claims, tried on the committed models of the digits: one training each, so that seeds do not count in."""

from __future__ import annotations

import math
from typing import Literal

from bench.claims import Activity, Finding, StatedClaim
from bench.studies.committed import CONTROL, STATIC, CommittedScores
from bench.studies.findings import BETTER, KEPT, on_target
from bench.studies.samples import LAMBDAS
from bench.studies.spread import FID, MECHANISMS, METHOD, TDW, rates_text

_SEEDS = 1
_IMAGES_ONLY = "one training: the interval is over resampled images and does not contain what trainings differ by"


def committed_findings(study: CommittedScores) -> list[Finding]:
    """FLOPs reached, quality against the start and against the missing control, and the worth of learned routing."""
    rows = []
    for target in LAMBDAS:
        rows += [
            _reached(study, target),
            _against_start(study, target),
            _against_control(study, target),
            _against_other_routing(study, target, "random", "at the learned overall rates"),
            _against_other_routing(study, target, "shuffled", "at the learned rates of every block and step"),
        ]
    return rows


def _reached(study: CommittedScores, target: float) -> Finding:
    name = _name(target)
    ratios = study.scores[name].flops_ratios
    assert ratios is not None  # only static variants have none
    mean, half = ratios.mean().item(), 1.96 * ratios.std().item() / math.sqrt(len(ratios))
    claim = StatedClaim(
        f"digits-flops-ratio-{target}",
        "A guided run costs lambda of the FLOPs of the static model's blocks",
        "DyDiT, Section 3.4",
        f"FLOPs ratio of the blocks, {name}, {study.sampling.steps} DDPM steps",
        on_target(target),
    )
    return claim.judge(
        mean,
        (mean - half, mean + half),
        _activity(study, target, METHOD),
        seeds=_SEEDS,
        evidence=f"quality.csv: {name}, FLOPs ratio",
        note=f"{_IMAGES_ONLY}; claimed by the masks, both guidance branches; training holds the mean of all timesteps",
    )


def _against_start(study: CommittedScores, target: float) -> Finding:
    claim = StatedClaim(
        f"digits-fid-static-{target}",
        f"DyDiT at lambda {target} is better than the static model that it was made from",
        "DyDiT, Table 8",
        f"{FID}: {_name(target)} / {STATIC}",
        BETTER,
    )
    extra, low, high = study.fid_ratio(CONTROL, STATIC)
    note = f"the static model trained as long without routers: {extra:.3f} [{low:.3f}, {high:.3f}]"
    return _compared(study, claim, _name(target), STATIC, _activity(study, target, METHOD), note)


def _against_control(study: CommittedScores, target: float) -> Finding:
    claim = StatedClaim(
        f"digits-fid-control-{target}",
        f"DyDiT at lambda {target} keeps the quality of a static model trained as long",
        "DyDiT, Table 8",
        f"{FID}: {_name(target)} / {CONTROL}",
        KEPT,
    )
    return _compared(study, claim, _name(target), CONTROL, _activity(study, target, METHOD), "")


def _against_other_routing(
    study: CommittedScores, target: float, routing: Literal["random", "shuffled"], rates: str
) -> Finding:
    other = f"{_name(target)}, {routing} routing"
    claim = StatedClaim(
        f"digits-fid-{routing}-{target}",
        f"Learned routing is better than masks in random places {rates}",
        "DyDiT, Table 3",
        f"{FID}: {_name(target)} / {other}",
        BETTER,
    )
    note = "the network was not trained for the random places"
    return _compared(study, claim, _name(target), other, _activity(study, target, TDW), note)


def _compared(
    study: CommittedScores, claim: StatedClaim, one: str, other: str, activity: Activity, note: str
) -> Finding:
    ratio, low, high = study.fid_ratio(one, other)
    notes = "; ".join(part for part in (_IMAGES_ONLY, note) if part)
    evidence = f"quality.csv: {one}; {other}"
    return claim.judge(ratio, (low, high), activity, seeds=_SEEDS, evidence=evidence, note=notes)


def _activity(study: CommittedScores, target: float, needed: tuple[str, ...]) -> Activity:
    """What the routers of a model did over the guided run of the learned variant."""
    name = _name(target)
    score = study.scores[name]
    assert score.rates is not None and score.flops_ratios is not None  # a DyDiT has both
    opened = dict(zip(MECHANISMS, (*score.rates, score.flops_ratios.mean().item()), strict=True))
    least = max(needed, key=opened.__getitem__)
    return Activity(MECHANISMS[least], max(1 - opened[least], 0.0), rates_text(name, **opened))


def _name(target: float) -> str:
    return f"DyDiT lambda={target}"
