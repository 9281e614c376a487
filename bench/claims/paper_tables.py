"""Look-ups in the tables of the paper that several measurements compare themselves with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.claims.published import find_published, load_published
from bench.flops.counts import GIGA, implied_ratio
from dydit import PAPER_LAMBDAS, DiTConfig
from dydit.ablations import find_ablation
from dydit.flops import DYDIT_PAPER


@dataclass(frozen=True)
class PublishedSpeed:
    """One published row: model by its static name, lambda, FLOPs ratio of the blocks, printed speeds (None: none)."""

    model: str
    target: float
    block_ratio: float
    source: str
    speedup: float | None
    s_per_image: float | None


def published_rows(name: str, config: DiTConfig, lambdas: Sequence[float] | None) -> list[PublishedSpeed]:
    """The rows of Table 8 for a model; a lambda that is not printed takes its target as the ratio of the blocks."""
    size = name.split("-")[1].split("/")[0]
    rows = []
    for target in lambdas or PAPER_LAMBDAS.get(size, (0.5,)):
        printed = {
            value.metric.split(" ")[0]: value.value
            for value in load_published()
            if value.table == "Table 8" and value.row == f"DyDiT-{size} lambda={target}"
        }
        fits = name.endswith("/2") and config.input_size == 32 and printed.get("FLOPs") is not None
        ratio = implied_ratio(config, (printed["FLOPs"] or 0.0) * GIGA, DYDIT_PAPER) if fits else target
        rows.append(
            PublishedSpeed(
                model=static_name(name),
                target=target,
                block_ratio=min(ratio, 1.0),
                source="DyDiT, Table 8" if fits else "target",
                speedup=printed.get("acceleration") if fits else None,
                s_per_image=printed.get("s/image") if fits else None,
            )
        )
    return rows


def static_name(name: str) -> str:
    """`DiT-S/2` of `DyDiT-S/2` or itself: either names the pair."""
    return name.removeprefix("Dy")


_TABLE3 = "ImageNet+Food+Artbench+Cars+Birds average of 5"


def _table8(size: str, target: float) -> float:
    """FID of a DyDiT relative to its static model."""
    dynamic, static = (
        find_published("dydit_iclr2025", table="Table 8", row=row, metric="FID-50K").value
        for row in (f"DyDiT-{size} lambda={target}", f"DiT-{size} static lambda=1.0")
    )
    assert dynamic is not None and static is not None  # Table 8 is complete
    return dynamic / static


def _table3(run: str) -> float:
    row = find_ablation(run).row
    assert row is not None, f"{run} has no row in Table 3"
    value = find_published("dydit_iclr2025", table="Table 3 (ablation)", row=row, metric="FID", dataset=_TABLE3).value
    assert value is not None
    return value


_TABLE3_AVERAGE = "ImageNet+Food+Artbench+Cars+Birds average of 5"
