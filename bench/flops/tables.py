"""The tables of what was counted: work by counter and convention, work by operator, parameters.

Unit: multiply-adds (MACs) of one image's forward pass, which the papers call FLOPs; 10^9 of them are 1 G.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.claims import Subject
from bench.flops.checkpoint_macs import CheckpointMacs
from bench.flops.counts import NetworkCount
from bench.flops.verdicts import published_macs, published_parameters
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


def flops_table(
    networks: Sequence[NetworkCount], checkpoints: Sequence[CheckpointMacs] = (), lambdas: Sequence[float] | None = None
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
    for network in networks:
        rows += _whole_rows(network)
        if network.dynamic:
            size = network.model.split("-")[1].split("/")[0]
            for target in lambdas or PAPER_LAMBDAS.get(size, ()):
                rows += _target_rows(network, target)
    rows += [row for checkpoint in checkpoints for row in _checkpoint_rows(checkpoint)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def operator_table(networks: Sequence[NetworkCount]) -> pd.DataFrame:
    """`flops_by_operator.csv`: MACs by operator, as each counter names them."""
    rows = [
        (network.model, network.resolution, counter, operator, value / GIGA)
        for network in networks
        for counter, by_operator in (
            ("closed form", _closed_form_operators(network)),
            *((name, count.by_operator) for name, _, count in network.counted),
        )
        for operator, value in by_operator.items()
    ]
    return pd.DataFrame(rows, columns=["model", "resolution", "counter", "operator", "gmacs"])


def parameters_table(networks: Sequence[NetworkCount]) -> pd.DataFrame:
    """`parameters.csv`: millions, trained and with the fixed position table, beside the printed value."""
    printed = published_parameters()
    rows = []
    for network in networks:
        value = printed.get((network.model, network.resolution))
        with_table = (network.parameters + network.position_table) / 1e6
        source = f"{value.paper_table}: {value.printed}" if value else ""
        rows.append((network.model, network.resolution, network.parameters / 1e6, with_table, source))
    return pd.DataFrame(rows, columns=["model", "resolution", "trained_m", "with_position_table_m", "published"])


def _row(network: NetworkCount | CheckpointMacs, convention: Convention, total: float, **cells: Any) -> dict[str, Any]:
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
    network: NetworkCount | CheckpointMacs, convention: Convention, target: float | None = None
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


def _checkpoint_rows(checkpoint: CheckpointMacs) -> list[dict[str, Any]]:
    return [
        _row(checkpoint, convention, checkpoint.macs.total(convention), what="claimed", counter="closed form")
        | _published(checkpoint, convention, checkpoint.target)
        | {"lambda": checkpoint.target, "block_ratio": checkpoint.ratio, "note": checkpoint.evidence}
        for convention in CONVENTIONS
    ]


def _closed_form_operators(network: NetworkCount) -> dict[str, float]:
    """The fields of `Macs` that are not zero, LayerNorm as the DyDiT paper counts it."""
    parts = dict(vars(network.closed_form))
    parts["layer_norm"] = DYDIT_PAPER.layer_norm * parts.pop("layer_norm_elements")
    return {name: value for name, value in parts.items() if value}
