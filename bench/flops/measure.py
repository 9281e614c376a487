"""One call that counts networks at true scale, writes the tables, and judges what the papers print."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.claims.verdict import SummaryRow
from bench.flops.checkpoint_macs import CheckpointMacs
from bench.flops.counts import MODELS, at_printed_resolutions, count_networks
from bench.flops.remarks import flops_remarks
from bench.flops.tables import flops_table, operator_table, parameters_table
from bench.flops.verdicts import judge_flops
from bench.records import Results
from dydit import check_lambda


def count_and_judge(
    results: Results,
    tier: str = "default",
    *,
    models: Sequence[str] | None = None,
    lambdas: Sequence[float] | None = None,
    checkpoints: Sequence[CheckpointMacs] = (),
) -> list[SummaryRow]:
    """Count, write `flops`, `flops_by_operator`, `parameters` and `flops_findings` as tables, and judge.

    Args:
        results: of the run.
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
    results.write_table(flops_table(networks, checkpoints, lambdas), "flops")
    results.write_table(operator_table(networks), "flops_by_operator")
    results.write_table(parameters_table(networks), "parameters")
    results.write_table(pd.DataFrame({"finding": flops_remarks(networks)}), "flops_findings")
    return judge_flops(networks, checkpoints, tier)
