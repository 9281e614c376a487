"""The FLOPs and parameters that the papers print, against what was counted: verdicts and findings."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import paper
from bench.flops_checkpoint import Claimed
from bench.flops_count import GIGA, Measured, implied_ratio
from bench.paper import PublishedValue
from bench.verdict import SummaryRow, Tolerance
from dydit.flops import CONVENTIONS, DIT_PAPER, DYDIT_PAPER, Convention

PAPERS: Mapping[str, Convention] = {"dit_iccv2023": DIT_PAPER, "dydit_iclr2025": DYDIT_PAPER}
"""Published tables by name, with the convention that their FLOPs follow."""

CLAIMED_WIDTH = 0.01
"""Relative tolerance for GMACs under the masks of a checkpoint."""


@dataclass(frozen=True)
class Subject:
    """The network that a published row is about; `target` is lambda, None for a static DiT."""

    model: str
    resolution: int
    target: float | None


_ROW = re.compile(
    r"(?P<kind>DiT|DyDiT)-(?P<size>XL|S|B|L)(?P<patch>/\d)?(?: static)?(?: lambda=(?P<target>[\d.]+))?"
    r"(?: pre-trained for .* iterations)?(?: 512)?"
)


def subject(value: PublishedValue) -> Subject | None:
    """The network of a published row; None where it is another architecture or made for other data."""
    match = _ROW.fullmatch(value.row)
    if match is None or value.dataset not in ("ImageNet-256", "ImageNet-512"):
        return None
    model = f"{match['kind']}-{match['size']}{match['patch'] or '/2'}"  # The DyDiT paper writes no patch: all are 2.
    target = float(match["target"]) if match["kind"] == "DyDiT" and match["target"] else None
    return Subject(model, int(value.dataset.split("-")[1]), target)


@functools.cache
def published_macs() -> dict[tuple[Convention, Subject], PublishedValue]:
    """Printed GMACs by convention and network; the paper's fullest table, which comes first, wins."""
    found: dict[tuple[Convention, Subject], PublishedValue] = {}
    for name, convention in PAPERS.items():
        for value in paper.load(name):
            about = subject(value)
            if about and is_flops(value) and value.value is not None:
                found.setdefault((convention, about), value)
    return found


def is_flops(value: PublishedValue) -> bool:
    """Whether a row prints FLOPs, which both papers give as MACs."""
    return value.metric == "Gflops" or value.metric.startswith("FLOPs")


def flops_claims(
    measured: Sequence[Measured], claimed: Sequence[Claimed] = (), tier: str = "default"
) -> list[SummaryRow]:
    """One row for every FLOPs and parameter value of the two papers, those that are not transcribed included."""
    return [
        _judge(value, convention, measured, claimed, tier)
        for name, convention in PAPERS.items()
        for value in paper.load(name)
        if is_flops(value) or value.metric == "params"
    ]


def findings(measured: Sequence[Measured]) -> list[str]:
    """What the counts say beyond the verdicts, one plain sentence each, from the numbers."""
    found = [_conventions_finding(name, measured) for name in PAPERS]
    found += _unmet_findings(measured)
    found += [_parameters_finding(measured), _ratio_finding(measured)]
    for network in measured:
        own = network.fvcore.total / GIGA
        label = f"{network.model} at {network.resolution}"
        if network.dynamic:
            static = _static_total(network) / GIGA
            found.append(
                f"{label}: the masked forward executes {own:.2f} GMACs whatever the masks, "
                f"{own / static:.1%} of the static model's {static:.2f}"
            )
        elif (network.model, network.resolution) == ("DiT-XL/2", 256):
            blind = network.fvcore_as_it_comes.total / GIGA
            found.append(
                f"{label}: fvcore as it comes reports {blind:.2f} of {own:.2f} GMACs, blind to fused attention"
            )
    return [sentence for sentence in found if sentence]


def _judge(
    value: PublishedValue,
    convention: Convention,
    measured: Sequence[Measured],
    claimed: Sequence[Claimed],
    tier: str,
) -> SummaryRow:
    if value.value is None:
        return SummaryRow.not_transcribed(value, tier)
    about = subject(value)
    if about is None:
        return SummaryRow.not_run(value, tier, f"{value.row}: this architecture is not built here")
    if about.target is not None and is_flops(value):
        return _judge_dynamic(value, about, convention, claimed, tier)
    network = _find(measured, about)
    if network is None:
        return SummaryRow.not_run(value, tier, f"{about.model} at {about.resolution} was not counted in this run")
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
    value: PublishedValue, about: Subject, convention: Convention, claimed: Sequence[Claimed], tier: str
) -> SummaryRow:
    for run in claimed:
        if Subject(run.model, run.resolution, run.target) == about and value.value is not None:
            width = CLAIMED_WIDTH * value.value
            tolerance = Tolerance.symmetric(width, f"{CLAIMED_WIDTH:.0%}: masks depend on the images, a sample of them")
            evidence = f"flops.csv: claimed, {run.evidence}, convention {convention.name}"
            return SummaryRow.judged(value, run.macs.total(convention) / GIGA, tolerance, tier, evidence)
    return SummaryRow.not_run(value, tier, "needs the trained checkpoint; give --checkpoint")


def _find(measured: Sequence[Measured], about: Subject) -> Measured | None:
    key = (about.model, about.resolution)
    return next((network for network in measured if (network.model, network.resolution) == key), None)


def _cut_note(value: PublishedValue, result: float) -> str:
    unit = 10.0**-value.decimals
    if value.value is not None and math.isclose(math.floor(result / unit) * unit, value.value):
        return f"{result:.{value.decimals + 2}f}, cut off instead of rounded, would print as {value.printed}"
    return ""


def _printed(measured: Sequence[Measured], metric_is_flops: bool) -> list[tuple[str, PublishedValue, Measured]]:
    """Printed values of counted static work (parameters of dynamic models too), with the paper's file name."""
    found = []
    for name in PAPERS:
        for value in paper.load(name):
            about = subject(value)
            wanted = is_flops(value) if metric_is_flops else value.metric == "params"
            if about is None or value.value is None or not wanted or (metric_is_flops and about.target is not None):
                continue
            network = _find(measured, about)
            if network is not None:
                found.append((name, value, network))
    return found


def _meets(value: PublishedValue, result: float) -> bool:
    return value.value is not None and Tolerance.rounding(value.decimals).accepts(value.value, result)


def _totals(network: Measured) -> dict[str, float]:
    return {convention.name: network.closed_form.total(convention) / GIGA for convention in CONVENTIONS}


def _conventions_finding(name: str, measured: Sequence[Measured]) -> str:
    rows = [(value, network) for own, value, network in _printed(measured, True) if own == name]
    if not rows:
        return ""
    counts = {
        convention: sum(_meets(value, network.closed_form.total(convention) / GIGA) for value, network in rows)
        for convention in CONVENTIONS
    }
    best = max(counts, key=lambda convention: counts[convention])
    others = ", ".join(f"{convention.name} {number}" for convention, number in counts.items() if convention is not best)
    return (
        f"{rows[0][0].paper}: the convention {best.name} ({best.meaning}) meets {counts[best]} of the {len(rows)} "
        f"printed static FLOPs to the last decimal ({others})"
    )


def _unmet_findings(measured: Sequence[Measured]) -> list[str]:
    found = []
    for name, value, network in _printed(measured, True):
        totals = _totals(network)
        if any(_meets(value, total) for total in totals.values()):
            continue
        digits = value.decimals + 2
        listed = ", ".join(f"{convention} {total:.{digits}f}" for convention, total in totals.items())
        note = _cut_note(value, totals[PAPERS[name].name])
        found.append(
            f"{value.paper_table}, {value.row}: {value.printed} G is met by no convention ({listed})"
            + (f"; {note}" if note else "")
        )
    return found


def _parameters_finding(measured: Sequence[Measured]) -> str:
    rows = _printed(measured, False)
    if not rows:
        return ""
    trained = sum(_meets(value, network.parameters / 1e6) for _, value, network in rows)
    whole = sum(_meets(value, (network.parameters + network.position_table) / 1e6) for _, value, network in rows)
    return (
        f"parameters: the trained ones meet {trained} of the {len(rows)} printed values, "
        f"with the fixed position table {whole}"
    )


def _ratio_finding(measured: Sequence[Measured]) -> str:
    """How far the printed GMACs of dynamic rows lie from what their lambda gives."""
    gaps = []
    for (convention, about), value in published_macs().items():
        network = _find(measured, about)
        if about.target is not None and network is not None and value.value is not None:
            ratio = implied_ratio(network.config, value.value * GIGA, convention)
            gaps.append((abs(ratio - about.target), ratio, value))
    if not gaps:
        return ""
    mean = sum(gap for gap, _, _ in gaps) / len(gaps)
    _, ratio, value = max(gaps, key=lambda item: item[0])
    return (
        f"{value.paper_table}: the printed GMACs of {len(gaps)} dynamic rows imply block ratios that differ from "
        f"lambda by {mean:.3f} on average, at most in {value.row}: {value.printed} G implies {ratio:.3f}"
    )


def _static_total(network: Measured) -> float:
    return network.closed_form.total(DYDIT_PAPER) - network.closed_form.routers
