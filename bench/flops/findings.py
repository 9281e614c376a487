"""What the counts say beyond single numbers: conventions, parameters and ratios that explain a printed total."""

from __future__ import annotations

from collections.abc import Sequence

from bench.claims import PublishedValue, Tolerance, claim_subject, load_published
from bench.flops.claims import PAPERS, _cut_note, _find, is_flops, published_macs
from bench.flops.counts import NetworkCount
from dydit import CONVENTIONS
from dydit.flops import DYDIT_PAPER, GIGA, implied_ratio


def flops_findings(measured: Sequence[NetworkCount]) -> list[str]:
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


def _printed(measured: Sequence[NetworkCount], metric_is_flops: bool) -> list[tuple[str, PublishedValue, NetworkCount]]:
    """Printed values of counted static work (parameters of dynamic models too), with the paper's file name."""
    found = []
    for name in PAPERS:
        for value in load_published(name):
            about = claim_subject(value)
            wanted = is_flops(value) if metric_is_flops else value.metric == "params"
            if about is None or value.value is None or not wanted or (metric_is_flops and about.target is not None):
                continue
            network = _find(measured, about)
            if network is not None:
                found.append((name, value, network))
    return found


def _meets(value: PublishedValue, result: float) -> bool:
    return value.value is not None and Tolerance.rounding(value.decimals).accepts(value.value, result)


def _totals(network: NetworkCount) -> dict[str, float]:
    return {convention.name: network.closed_form.total(convention) / GIGA for convention in CONVENTIONS}


def _conventions_finding(name: str, measured: Sequence[NetworkCount]) -> str:
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


def _unmet_findings(measured: Sequence[NetworkCount]) -> list[str]:
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


def _parameters_finding(measured: Sequence[NetworkCount]) -> str:
    rows = _printed(measured, False)
    if not rows:
        return ""
    trained = sum(_meets(value, network.parameters / 1e6) for _, value, network in rows)
    whole = sum(_meets(value, (network.parameters + network.position_table) / 1e6) for _, value, network in rows)
    return (
        f"parameters: the trained ones meet {trained} of the {len(rows)} printed values, "
        f"with the fixed position table {whole}"
    )


def _ratio_finding(measured: Sequence[NetworkCount]) -> str:
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


def _static_total(network: NetworkCount) -> float:
    return network.closed_form.total(DYDIT_PAPER) - network.closed_form.routers
