"""Look-ups in the tables of the DyDiT paper that several measurements compare themselves with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.claims.published import find_published, load_published
from dydit import PAPER_LAMBDAS, DiTConfig
from dydit.ablations import find_ablation
from dydit.flops import DYDIT_PAPER, GIGA, implied_ratio

_PAPER = "dydit_iclr2025"
_FIVE_DATA_SETS = "ImageNet+Food+Artbench+Cars+Birds average of 5"


@dataclass(frozen=True)
class PublishedSpeed:
    """What Table 8 prints of one model and lambda.

    `model` is the static name, `block_ratio` the share of the blocks' FLOPs that the printed total leaves. `speedup`
    and `s_per_image` are None where the paper prints none.
    """

    model: str
    target: float
    block_ratio: float
    source: str
    speedup: float | None
    s_per_image: float | None


def published_speeds(name: str, config: DiTConfig, lambdas: Sequence[float] | None) -> list[PublishedSpeed]:
    """The rows of Table 8 for a model, by default at every lambda of the paper.

    A lambda, patch size or resolution that is not printed takes its target as the ratio of the blocks.
    """
    size = name.split("-")[1].split("/")[0]
    rows = []
    for target in lambdas or PAPER_LAMBDAS.get(size, (0.5,)):
        printed = {
            value.metric.split(" ")[0]: value.value
            for value in load_published(_PAPER)
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
    """`DiT-S/2` of `DyDiT-S/2` or of itself: either name stands for the pair."""
    return name.removeprefix("Dy")


def published_fid_ratio(size: str, target: float) -> float:
    """FID of a DyDiT relative to that of its static model (Table 8), for a size such as `XL` and a printed lambda."""
    dynamic, static = (
        find_published(_PAPER, table="Table 8", row=row, metric="FID-50K").value
        for row in (f"DyDiT-{size} lambda={target}", f"DiT-{size} static lambda=1.0")
    )
    assert dynamic is not None and static is not None  # Table 8 is complete
    return dynamic / static


def published_ablation_fid(run: str) -> float:
    """FID of an ablation of `dydit.ablations` (Table 3), averaged over the five data sets."""
    row = find_ablation(run).row
    assert row is not None, f"{run} has no row in Table 3"
    value = find_published(_PAPER, table="Table 3 (ablation)", row=row, metric="FID", dataset=_FIVE_DATA_SETS).value
    assert value is not None  # these averages are transcribed
    return value
