"""Look-ups in the tables of the DyDiT paper that several measurements compare themselves with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.claims.published import find_published, load_published
from dydit import PAPER_LAMBDAS, DiTConfig
from dydit.flops import DYDIT_PAPER, GIGA, implied_ratio

_PAPER = "dydit_iclr2025"
_DIT_PAPER = "dit_iccv2023"

RELEASED_LAMBDAS = (0.7, 0.5)
"""Of the DyDiT-XL/2 at 256 pixels whose weights the authors published."""
MAIN_COMPARISON = "Table 1 (main comparison)"
HEADLINE_ROWS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "dydit-xl-2-lambda-0.7": (
        (_PAPER, MAIN_COMPARISON, "DyDiT-XL lambda=0.7"),
        (_PAPER, "Table 8", "DyDiT-XL lambda=0.7"),
    ),
    "dydit-xl-2-lambda-0.5": (
        (_PAPER, MAIN_COMPARISON, "DyDiT-XL lambda=0.5"),
        (_PAPER, "Table 8", "DyDiT-XL lambda=0.5"),
    ),
    "DiT-XL-2-256x256.pt": (
        (_PAPER, MAIN_COMPARISON, "DiT-XL"),
        (_PAPER, "Table 8", "DiT-XL static lambda=1.0"),
        (_DIT_PAPER, "Table 2", "DiT-XL/2-G cfg=1.50"),
        (_DIT_PAPER, "Table 5 (VAE decoder)", "DiT-XL/2-G cfg=1.5, decoder ft-EMA"),
        (_DIT_PAPER, "Appendix A", "guidance on first 3 of 4 latent channels, scale 1.5"),
    ),
}
"""Published checkpoint -> the rows (file, table, row) that print its quality at the protocol of the headline: 50,000
images, guidance 1.5, 250 DDPM steps, VAE `ema`."""


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


def published_fid_ratio(row: str, baseline: str = "DiT-XL") -> float:
    """FID of one row of Table 1 relative to that of another, such as `DyDiT-XL lambda=0.5`.

    Raises:
        InputError: no such row.
    """
    above, below = (
        find_published(_PAPER, table=MAIN_COMPARISON, row=name, metric="FID-50K").value for name in (row, baseline)
    )
    assert above is not None and below is not None, f"{row} or {baseline} is not transcribed"
    return above / below


def static_name(name: str) -> str:
    """`DiT-S/2` of `DyDiT-S/2` or of itself: either name stands for the pair."""
    return name.removeprefix("Dy")
