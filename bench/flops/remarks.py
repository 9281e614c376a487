"""What the counts say beyond single numbers: conventions, parameters and ratios that explain a printed total."""

from __future__ import annotations

from collections.abc import Sequence

from bench.claims import PublishedValue, Tolerance, claim_subject, load_published
from bench.flops.counts import NetworkCount
from bench.flops.verdicts import (
    PAPERS,
    cut_off_note,
    find_count,
    is_flops,
    is_parameters,
    published_macs,
)
from dydit import CONVENTIONS
from dydit.flops import DYDIT_PAPER, GIGA, implied_ratio


def flops_remarks(networks: Sequence[NetworkCount]) -> list[str]:
    """What the counts say beyond the verdicts, one plain sentence each, from the numbers."""
    remarks = [_conventions_remark(name, networks) for name in PAPERS]
    remarks += _unmet_remarks(networks)
    remarks += [_parameters_remark(networks), _ratio_remark(networks)]
    for network in networks:
        own = network.fvcore.total / GIGA
        label = f"{network.model} at {network.resolution}"
        if network.dynamic:
            static = _static_total(network) / GIGA
            remarks.append(
                f"{label}: the masked forward executes {own:.2f} GMACs whatever the masks, "
                f"{own / static:.1%} of the static model's {static:.2f}"
            )
        elif (network.model, network.resolution) == ("DiT-XL/2", 256):
            blind = network.fvcore_unmodified.total / GIGA
            remarks.append(
                f"{label}: fvcore unmodified reports {blind:.2f} of {own:.2f} GMACs, blind to fused attention"
            )
    return [sentence for sentence in remarks if sentence]


def _printed(networks: Sequence[NetworkCount], metric_is_flops: bool) -> list[tuple[str, PublishedValue, NetworkCount]]:
    """Printed values of counted static work (parameters of dynamic models too), with the paper's file name."""
    rows = []
    for name in PAPERS:
        for value in load_published(name):
            about = claim_subject(value)
            wanted = is_flops(value) if metric_is_flops else is_parameters(value)
            if about is None or value.value is None or not wanted or (metric_is_flops and about.target is not None):
                continue
            network = find_count(networks, about)
            if network is not None:
                rows.append((name, value, network))
    return rows


def _meets(value: PublishedValue, result: float) -> bool:
    return value.value is not None and Tolerance.rounding(value.decimals).accepts(value.value, result)


def _totals(network: NetworkCount) -> dict[str, float]:
    return {convention.name: network.closed_form.total(convention) / GIGA for convention in CONVENTIONS}


def _conventions_remark(name: str, networks: Sequence[NetworkCount]) -> str:
    rows = [(value, network) for own, value, network in _printed(networks, True) if own == name]
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


def _unmet_remarks(networks: Sequence[NetworkCount]) -> list[str]:
    remarks = []
    for name, value, network in _printed(networks, True):
        totals = _totals(network)
        if any(_meets(value, total) for total in totals.values()):
            continue
        digits = value.decimals + 2
        listed = ", ".join(f"{convention} {total:.{digits}f}" for convention, total in totals.items())
        note = cut_off_note(value, totals[PAPERS[name].name])
        remarks.append(
            f"{value.paper_table}, {value.row}: {value.printed} G is met by no convention ({listed})"
            + (f"; {note}" if note else "")
        )
    return remarks


def _parameters_remark(networks: Sequence[NetworkCount]) -> str:
    rows = _printed(networks, False)
    if not rows:
        return ""
    trained = sum(_meets(value, network.parameters / 1e6) for _, value, network in rows)
    whole = sum(_meets(value, (network.parameters + network.position_table) / 1e6) for _, value, network in rows)
    return (
        f"parameters: the trained ones meet {trained} of the {len(rows)} printed values, "
        f"with the fixed position table {whole}"
    )


def _ratio_remark(networks: Sequence[NetworkCount]) -> str:
    """How far the printed GMACs of dynamic rows lie from what their lambda gives."""
    gaps = []
    for (convention, about), value in published_macs().items():
        network = find_count(networks, about)
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


def _static_total(network: NetworkCount) -> float:
    return network.closed_form.total(DYDIT_PAPER) - network.closed_form.routers
