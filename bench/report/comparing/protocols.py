"""What identifies a row of each table, which values of it are compared, and what must be equal for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

LOWER, HIGHER, EITHER = -1, 1, 0
"""Which way a value is better; neither is, where a change is a change and no more."""
LOWER_IS_BETTER = ("FID", "sFID", "KID", "MSE", "loss", "ms", "FID_over_control")
HIGHER_IS_BETTER = ("IS", "precision", "recall", "PSNR", "speedup", "images_per_s", "efficiency")
TIME_FACTS = ("machine", "torch.threads", "torch.version")
"""Facts of the record that must be equal for times to be compared. Another machine is another clock."""
SCORE_FACTS = ("tier", "seed", "images", "steps")
"""The same for scores of images: less of them, or other ones, are another protocol."""
_ENGINE = ("model", "lambda", "resolution", "batch", "device", "dtype", "engine", "profile")


@dataclass(frozen=True)
class Protocol:
    """How a table is compared.

    Args:
        keys: the columns that identify a row.
        values: column -> which way is better.
        same: columns that must be equal in both rows, such as the feature extractor.
        facts: of both records that must be equal, dots between levels.
        exact: the values are counts and formulas: any difference is one.
    """

    keys: tuple[str, ...]
    values: Mapping[str, int]
    same: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    exact: bool = False
    ends: tuple[str, str] = field(default=("low", "high"))


PROTOCOLS: Mapping[str, Protocol] = {
    "summary": Protocol(("claim_id",), {"measured": EITHER}, exact=True),
    "findings": Protocol(("finding_id",), {"measured": EITHER}, same=("rule", "seeds"), facts=SCORE_FACTS),
    "flops": Protocol(
        ("model", "resolution", "lambda", "what", "counter", "convention"), {"gmacs": EITHER}, exact=True
    ),
    "parameters": Protocol(("model", "resolution"), {"trained_m": EITHER}, exact=True),
    "quality": Protocol(
        ("model", "dataset", "metric"),
        {"value": EITHER},
        same=(
            "extractor",
            "weights_sha256",
            "arithmetic",
            "n_samples",
            "n_reference",
            "steps",
            "guidance_scale",
            "seed",
        ),
        facts=("tier",),
    ),
    "latency": Protocol(_ENGINE, {"ms_median": LOWER, "speedup": HIGHER}, same=("routing",), facts=TIME_FACTS),
    "latency_best": Protocol(
        ("model", "resolution", "device", "dtype", "lambda", "profile", "engine"),
        {"images_per_s": HIGHER},
        same=("batch", "routing"),
        facts=TIME_FACTS,
    ),
    "latency_growth": Protocol(
        ("model", "device", "dtype", "engine", "lambda", "tokens", "batch", "profile"),
        {"ms_median": LOWER, "speedup": HIGHER},
        same=("routing",),
        facts=TIME_FACTS,
    ),
    "latency_profile": Protocol(
        ("model", "lambda", "batch", "engine", "profile", "part"), {"ms": LOWER}, facts=TIME_FACTS
    ),
    "quality_speed": Protocol(
        ("pictures", "device"),
        {"seconds": LOWER, "images_per_s": HIGHER, "speedup": HIGHER, "peak_mib": LOWER},
        facts=TIME_FACTS,
    ),
}
_DERIVED = frozenset({"flops_by_operator", "flops_findings", "questions", "scoreboard"})
"""Tables that repeat others in more parts or in words."""


def protocol_of(name: str, table: pd.DataFrame) -> Protocol | None:
    """How the table of a name is compared; one that nobody described by its texts and whole numbers as keys.

    None: it says nothing that others do not.
    """
    if name in _DERIVED:
        return None
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    floats = [str(column) for column, kind in table.dtypes.items() if pd.api.types.is_float_dtype(kind)]
    spread = [column for column in floats if column.endswith(("_std", "_low", "_high", "_stderr"))]
    # A float may name the case, as lambda does, or a protocol, which all rows share or few values have.
    naming = [column for column in floats if column in ("lambda", "guidance_scale", "seed", "converged")]
    keys = [str(column) for column in table if column not in floats or column in naming]
    values = {column: direction(column) for column in floats if column not in (*spread, *naming)}
    return Protocol(tuple(keys), values)


def direction(name: str) -> int:
    """Which way a metric or a column is better, by its name without extractor and suffix: `FID[digits-cnn]`."""
    stem = name.split("[")[0]
    if stem in LOWER_IS_BETTER:
        return LOWER
    return HIGHER if stem in HIGHER_IS_BETTER else EITHER
