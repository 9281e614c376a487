"""FLOPs harness: the tables of what was counted, and one call that counts, writes and judges.

Unit: multiply-adds (MACs) of one image's forward pass, which the papers call FLOPs; 10^9 of them are 1 G.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims import PublishedValue, Subject, SummaryRow, claim_subject, load_published
from bench.flops.claims import PAPERS, flops_claims, published_macs
from bench.flops.counts import MODELS, NetworkCount, count_networks
from bench.flops.findings import flops_findings
from bench.flops.learned_masks import ClaimedMacs
from bench.records import write_table
from dydit import CONVENTIONS, PAPER_LAMBDAS, Convention, check_lambda
from dydit.flops import DYDIT_PAPER, GIGA, implied_ratio, target_macs, token_router_macs, width_router_macs

COLUMNS = (
    "model",
    "resolution",
    "lambda",
    "what",
    "counter",
    "convention",
    "gmacs",
    "gflops_2x",
    "router_gmacs",
    "published_gmacs",
    "published_source",
    "block_ratio",
    "published_block_ratio",
    "note",
)


def write_flops(
    directory: Path,
    tier: str = "default",
    *,
    models: Sequence[str] | None = None,
    lambdas: Sequence[float] | None = None,
    claimed: Sequence[ClaimedMacs] = (),
) -> list[SummaryRow]:
    """Count, write `flops`, `flops_by_operator`, `parameters` and `flops_findings` as tables, and judge.

    `models` are names, by default all of both papers; a name is counted at every resolution that the papers print.

    Raises:
        InputError: an unknown model or a lambda outside (0, 1], before anything is counted.
    """
    for value in lambdas or ():
        check_lambda(value)
    measured = count_networks(MODELS if not models else _printed_resolutions(models))
    write_table(flops_table(measured, claimed, lambdas), directory, "flops")
    write_table(operator_table(measured), directory, "flops_by_operator")
    write_table(parameters_table(measured), directory, "parameters")
    write_table(pd.DataFrame({"finding": flops_findings(measured)}), directory, "flops_findings")
    return flops_claims(measured, claimed, tier)


def flops_table(
    measured: Sequence[NetworkCount], claimed: Sequence[ClaimedMacs] = (), lambdas: Sequence[float] | None = None
) -> pd.DataFrame:
    """`flops.csv`: one row per network, lambda, counter and convention.

    `what` is `static`; `executed` (the masked forward: everything runs), `target` (blocks at lambda exactly) or
    `claimed` (masks of a trained checkpoint). `block_ratio` is the share of the blocks' MACs that is left, and
    `published_block_ratio` the one that the published value implies. `lambdas` replaces those of the DyDiT paper.

    Raises:
        InputError: a lambda outside (0, 1].
    """
    for value in lambdas or ():
        check_lambda(value)
    rows: list[dict[str, Any]] = []
    for network in measured:
        rows += _whole_rows(network)
        if network.dynamic:
            size = network.model.split("-")[1].split("/")[0]
            for target in lambdas or PAPER_LAMBDAS.get(size, ()):
                rows += _target_rows(network, target)
    rows += [row for checkpoint in claimed for row in _claimed_rows(checkpoint)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def operator_table(measured: Sequence[NetworkCount]) -> pd.DataFrame:
    """`flops_by_operator.csv`: MACs by operator, as each counter names them."""
    rows = [
        (network.model, network.resolution, counter, operator, value / GIGA)
        for network in measured
        for counter, by_operator in (
            ("closed form", _closed_form_operators(network)),
            *((name, count.by_operator) for name, _, count in network.counted),
        )
        for operator, value in by_operator.items()
    ]
    return pd.DataFrame(rows, columns=["model", "resolution", "counter", "operator", "gmacs"])


def parameters_table(measured: Sequence[NetworkCount]) -> pd.DataFrame:
    """`parameters.csv`: millions, trained and with the fixed position table, beside the printed value."""
    printed: dict[tuple[str, int], PublishedValue] = {}
    for name in PAPERS:
        for value in load_published(name):
            about = claim_subject(value)
            if about and value.metric == "params" and value.value is not None:
                printed.setdefault((about.model, about.resolution), value)
    rows = []
    for network in measured:
        value_ = printed.get((network.model, network.resolution))
        with_table = (network.parameters + network.position_table) / 1e6
        source = f"{value_.paper_table}: {value_.printed}" if value_ else ""
        rows.append((network.model, network.resolution, network.parameters / 1e6, with_table, source))
    return pd.DataFrame(rows, columns=["model", "resolution", "trained_m", "with_position_table_m", "published"])


def _printed_resolutions(models: Iterable[str]) -> list[tuple[str, int]]:
    chosen: list[tuple[str, int]] = []
    for name in dict.fromkeys(models):
        chosen += [entry for entry in MODELS if entry[0] == name] or [(name, 256)]
    return chosen


def _row(network: NetworkCount | ClaimedMacs, convention: Convention, total: float, **cells: Any) -> dict[str, Any]:
    routers = width_router_macs(network.config) + token_router_macs(network.config)
    return {
        "model": network.model,
        "resolution": network.resolution,
        "convention": convention.name,
        "gmacs": total / GIGA,
        "gflops_2x": 2 * total / GIGA,
        "router_gmacs": routers / GIGA if network.model.startswith("DyDiT") else None,
        **cells,
    }


def _published(
    network: NetworkCount | ClaimedMacs, convention: Convention, target: float | None = None
) -> dict[str, Any]:
    value = published_macs().get((convention, Subject(network.model, network.resolution, target)))
    if value is None:
        return {}
    cells: dict[str, Any] = {"published_gmacs": value.value, "published_source": value.paper_table}
    if target is not None and value.value is not None:
        cells["published_block_ratio"] = implied_ratio(network.config, value.value * GIGA, convention)
    return cells


def _whole_rows(network: NetworkCount) -> list[dict[str, Any]]:
    what = "executed" if network.dynamic else "static"
    counts = [("closed form", convention, network.closed_form.total(convention)) for convention in CONVENTIONS]
    counts += [(name, convention, count.total) for name, convention, count in network.counted]
    return [
        _row(network, convention, total, what=what, counter=name, **_published(network, convention))
        for name, convention, total in counts
    ]


def _target_rows(network: NetworkCount, target: float) -> list[dict[str, Any]]:
    return [
        _row(network, convention, target_macs(network.config, target, convention), what="target", counter="closed form")
        | {"lambda": target, "block_ratio": target}
        | _published(network, convention, target)
        for convention in CONVENTIONS
    ]


def _claimed_rows(claimed: ClaimedMacs) -> list[dict[str, Any]]:
    return [
        _row(claimed, convention, claimed.macs.total(convention), what="claimed", counter="closed form")
        | _published(claimed, convention, claimed.target)
        | {"lambda": claimed.target, "block_ratio": claimed.ratio, "note": claimed.evidence}
        for convention in CONVENTIONS
    ]


def _closed_form_operators(network: NetworkCount) -> dict[str, float]:
    """The fields of `Macs` that are not zero, LayerNorm as the DyDiT paper counts it."""
    parts = dict(vars(network.closed_form))
    parts["layer_norm"] = DYDIT_PAPER.layer_norm * parts.pop("layer_norm_elements")
    return {name: value for name, value in parts.items() if value}
