"""The FLOPs and parameters that the papers print, and a verdict for each from what was counted."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

from bench.claims import PublishedValue, Subject, SummaryRow, Tolerance, claim_subject, load_published, unmeasured_row
from bench.flops.checkpoint_macs import CheckpointMacs
from bench.flops.counts import NetworkCount
from dydit import Convention
from dydit.flops import DIT_PAPER, DYDIT_PAPER, GIGA

PAPERS: Mapping[str, Convention] = {"dit_iccv2023": DIT_PAPER, "dydit_iclr2025": DYDIT_PAPER}
"""Published tables by name, with the convention that their FLOPs follow."""

CHECKPOINT_WIDTH = 0.01
"""Relative tolerance for the GMACs that the masks of a checkpoint leave."""


@functools.cache
def published_macs() -> dict[tuple[Convention, Subject], PublishedValue]:
    """Printed GMACs by convention and network; the paper's fullest table, which comes first, wins."""
    printed: dict[tuple[Convention, Subject], PublishedValue] = {}
    for name, convention in PAPERS.items():
        for value in load_published(name):
            about = claim_subject(value)
            if about and is_flops(value) and value.value is not None:
                printed.setdefault((convention, about), value)
    return printed


@functools.cache
def published_parameters() -> dict[tuple[str, int], PublishedValue]:
    """Printed millions of parameters by model and resolution; the first row of a network wins, whatever its lambda."""
    printed: dict[tuple[str, int], PublishedValue] = {}
    for name in PAPERS:
        for value in load_published(name):
            about = claim_subject(value)
            if about and is_parameters(value) and value.value is not None:
                printed.setdefault((about.model, about.resolution), value)
    return printed


def is_flops(value: PublishedValue) -> bool:
    """Whether a row prints FLOPs, which both papers give as 10^9 MACs; a change in percent is another quantity."""
    return value.unit == "G" and value.metric.startswith(("Gflops", "FLOPs"))


def is_parameters(value: PublishedValue) -> bool:
    """Whether a row prints a number of parameters, in millions."""
    return value.metric == "params"


def judge_flops(
    networks: Sequence[NetworkCount], checkpoints: Sequence[CheckpointMacs] = (), tier: str = "default"
) -> list[SummaryRow]:
    """One row for every FLOPs and parameter value of the two papers, those that are not transcribed included."""
    return [
        _judge(value, convention, networks, checkpoints, tier)
        for name, convention in PAPERS.items()
        for value in load_published(name)
        if is_flops(value) or is_parameters(value)
    ]


def _judge(
    value: PublishedValue,
    convention: Convention,
    networks: Sequence[NetworkCount],
    checkpoints: Sequence[CheckpointMacs],
    tier: str,
) -> SummaryRow:
    about = claim_subject(value)
    if value.value is None or about is None:
        return unmeasured_row(value, tier)
    if about.target is not None and is_flops(value):
        return _judge_dynamic(value, about, convention, checkpoints, tier)
    network = find_count(networks, about)
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
    note = "" if tolerance.accepts(value.value, result) else cut_off_note(value, result)
    return SummaryRow.judged(value, result, tolerance, tier, evidence, note)


def _judge_dynamic(
    value: PublishedValue, about: Subject, convention: Convention, checkpoints: Sequence[CheckpointMacs], tier: str
) -> SummaryRow:
    for run in checkpoints:
        if Subject(run.model, run.resolution, run.target) == about and value.value is not None:
            width = CHECKPOINT_WIDTH * value.value
            tolerance = Tolerance.symmetric(
                width, f"{CHECKPOINT_WIDTH:.0%}: masks depend on the images, a sample of them"
            )
            evidence = f"flops.csv: claimed, {run.evidence}, convention {convention.name}"
            return SummaryRow.judged(value, run.macs.total(convention) / GIGA, tolerance, tier, evidence)
    return unmeasured_row(value, tier)


def find_count(networks: Sequence[NetworkCount], about: Subject) -> NetworkCount | None:
    """The count of the network that a published row is about, whatever its lambda; None where it was not counted."""
    key = (about.model, about.resolution)
    return next((network for network in networks if (network.model, network.resolution) == key), None)


def cut_off_note(value: PublishedValue, result: float) -> str:
    """That `result` would print as the published value if digits were cut off instead of rounded; else nothing."""
    unit = 10.0**-value.decimals
    if value.value is not None and math.isclose(math.floor(result / unit) * unit, value.value):
        return f"{result:.{value.decimals + 2}f}, cut off instead of rounded, would print as {value.printed}"
    return ""
