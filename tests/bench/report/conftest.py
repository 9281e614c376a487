"""A run folder with every table that the report reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.claims import Activity, Claim, Rule, StatedClaim, SummaryRow, Tolerance, write_findings, write_summary
from bench.records import Results, run_record
from bench.records.tables import write_table

RECORD: dict[str, Any] = {
    "command": "python -m bench reproduce",
    "started": "2025-01-31T23:59:00+00:00",
    "commit": "a" * 40,
    "dirty": False,
    "cpu": {"model": "Intel(R) Xeon(R) Processor", "logical_cores": 2},
    "torch": {"version": "2.9", "threads": 2, "devices": []},
}
MACHINE = "cpu-intel-xeon-2-cores"
TOLERANCE = Tolerance.symmetric(0.005, "printed to 2 decimals")


def latency_table(speedup: float = 1.8) -> pd.DataFrame:
    columns = "model lambda batch profile engine ms_median speedup speedup_low speedup_high flops_ratio efficiency"
    rows = [
        ("DiT-S/2", 1.0, 2, "", "static", 100.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        ("DiT-S/2", 0.5, 2, "even", "masked", 140.0, 0.7, 0.6, 0.8, 1.0, 0.7),
        ("DiT-S/2", 0.5, 2, "even", "realised", 100.0 / speedup, speedup, 1.7, 1.9, 0.5, 0.9),
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(columns.split())).assign(device="cpu", dtype="fp32", resolution=256)
    return frame.assign(ms_q25=frame["ms_median"] - 1, ms_q75=frame["ms_median"] + 1, published_speedup=1.54)


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """(folder, measured FLOPs, speed-up, changes of the record) -> the folder, holding verdicts, findings and times."""

    def make(directory: Path, flops: float = 6.0691, speedup: float = 1.8, **changes: Any) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        claim = Claim("a", "DyDiT, Table 8", "DiT-S static lambda=1.0", "FLOPs", "G", 6.07, "two-sources")
        waiting = Claim("b", "DyDiT, Table 8", "DyDiT-S lambda=0.5", "FID", "", 28.75)
        rows = [
            SummaryRow.judged(claim, flops, TOLERANCE, "smoke", "flops.csv"),
            SummaryRow.not_run(waiting, "smoke", "needs a GPU", command="python -m bench x", needs="a GPU"),
        ]
        write_summary(rows, Results(directory))
        activity = Activity("heads closed", 0.5, "DyDiT: open heads 0.5")
        stated = StatedClaim("f", "Learned beats random", "DyDiT, Table 3", "FID ratio", Rule.below(1.0, "a direction"))
        write_findings([stated.judge(0.7, (0.6, 0.8), activity, seeds=3, evidence="runs.csv")], Results(directory))
        write_table(latency_table(speedup), directory, "latency")
        run_record.write_run(RECORD | changes, directory)
        return directory

    return make
