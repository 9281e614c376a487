"""The FLOPs and parameters that the papers print, against what was counted: verdicts and findings."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

from bench.claims import PublishedValue, Subject, SummaryRow, Tolerance, claim_subject, load_published, unmeasured_row
from bench.flops.counts import NetworkCount
from bench.flops.learned_masks import ClaimedMacs
from dydit import Convention
from dydit.flops import DIT_PAPER, DYDIT_PAPER, GIGA

PAPERS: Mapping[str, Convention] = {"dit_iccv2023": DIT_PAPER, "dydit_iclr2025": DYDIT_PAPER}
"""Published tables by name, with the convention that their FLOPs follow."""

CLAIMED_WIDTH = 0.01
"""Relative tolerance for GMACs under the masks of a checkpoint."""


@functools.cache
def published_macs() -> dict[tuple[Convention, Subject], PublishedValue]:
    """Printed GMACs by convention and network; the paper's fullest table, which comes first, wins."""
    found: dict[tuple[Convention, Subject], PublishedValue] = {}
    for name, convention in PAPERS.items():
        for value in load_published(name):
            about = claim_subject(value)
            if about and is_flops(value) and value.value is not None:
                found.setdefault((convention, about), value)
    return found


def is_flops(value: PublishedValue) -> bool:
    """Whether a row prints FLOPs, which both papers give as MACs."""
    return value.metric == "Gflops" or value.metric.startswith("FLOPs")


def flops_claims(
    measured: Sequence[NetworkCount], claimed: Sequence[ClaimedMacs] = (), tier: str = "default"
) -> list[SummaryRow]:
    """One row for every FLOPs and parameter value of the two papers, those that are not transcribed included."""
    return [
        _judge(value, convention, measured, claimed, tier)
        for name, convention in PAPERS.items()
        for value in load_published(name)
        if is_flops(value) or value.metric == "params"
    ]


def _judge(
    value: PublishedValue,
    convention: Convention,
    measured: Sequence[NetworkCount],
    claimed: Sequence[ClaimedMacs],
    tier: str,
) -> SummaryRow:
    about = claim_subject(value)
    if value.value is None or about is None:
        return unmeasured_row(value, tier)
    if about.target is not None and is_flops(value):
        return _judge_dynamic(value, about, convention, claimed, tier)
    network = _find(measured, about)
    if network is None:
        return unmeasured_row(value, tier)
    label = f"{about.model} @{about.resolution}"
    if is_flops(value):
        result = network.closed_form.total(convention) / GIGA
        evidence = f"flops.csv: {label}, {' = '.join(network.agreeing(convention))}, convention {convention.name}"
    else:
        result = network.parameters / 1e6
        evidence = f"parameters.csv: {label}, trained parameters, without the fixed position table"
    tolerance = Tolerance.rounding(value.decimals)
    note = "" if tolerance.accepts(value.value, result) else _cut_note(value, result)
    return SummaryRow.judged(value, result, tolerance, tier, evidence, note)


def _judge_dynamic(
    value: PublishedValue, about: Subject, convention: Convention, claimed: Sequence[ClaimedMacs], tier: str
) -> SummaryRow:
    for run in claimed:
        if Subject(run.model, run.resolution, run.target) == about and value.value is not None:
            width = CLAIMED_WIDTH * value.value
            tolerance = Tolerance.symmetric(width, f"{CLAIMED_WIDTH:.0%}: masks depend on the images, a sample of them")
            evidence = f"flops.csv: claimed, {run.evidence}, convention {convention.name}"
            return SummaryRow.judged(value, run.macs.total(convention) / GIGA, tolerance, tier, evidence)
    return unmeasured_row(value, tier)


def _find(measured: Sequence[NetworkCount], about: Subject) -> NetworkCount | None:
    key = (about.model, about.resolution)
    return next((network for network in measured if (network.model, network.resolution) == key), None)


def _cut_note(value: PublishedValue, result: float) -> str:
    unit = 10.0**-value.decimals
    if value.value is not None and math.isclose(math.floor(result / unit) * unit, value.value):
        return f"{result:.{value.decimals + 2}f}, cut off instead of rounded, would print as {value.printed}"
    return ""
