"""One call that counts networks at true scale, writes the tables, and judges what the papers print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.claims.verdict import SummaryRow
from bench.flops.checkpoint_macs import CheckpointMacs
from bench.flops.counts import MODELS, at_printed_resolutions, count_networks
from bench.flops.remarks import flops_remarks
from bench.flops.tables import flops_table, operator_table, parameters_table
from bench.flops.verdicts import judge_flops
from bench.records import write_table
from dydit import check_lambda


def count_and_judge(
    directory: Path,
    tier: str = "default",
    *,
    models: Sequence[str] | None = None,
    lambdas: Sequence[float] | None = None,
    checkpoints: Sequence[CheckpointMacs] = (),
) -> list[SummaryRow]:
    """Count, write `flops`, `flops_by_operator`, `parameters` and `flops_findings` as tables, and judge.

    Args:
        directory: of the tables.
        tier: of the run, for the rows of summary.csv.
        models: names, by default all of both papers; a name is counted at every resolution that the papers print.
        lambdas: FLOPs targets, by default those of the DyDiT paper.
        checkpoints: what the masks of trained checkpoints leave, where that was measured.

    Returns:
        One row for every FLOPs and parameter value of the two papers.

    Raises:
        InputError: an unknown model or a lambda outside (0, 1], before anything is counted.
    """
    for value in lambdas or ():
        check_lambda(value)
    networks = count_networks(at_printed_resolutions(models) if models else MODELS)
    write_table(flops_table(networks, checkpoints, lambdas), directory, "flops")
    write_table(operator_table(networks), directory, "flops_by_operator")
    write_table(parameters_table(networks), directory, "parameters")
    write_table(pd.DataFrame({"finding": flops_remarks(networks)}), directory, "flops_findings")
    return judge_flops(networks, checkpoints, tier)
