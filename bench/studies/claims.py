"""The paper's claims, judged on the study on digits (DyDiT paper, Section 3; Tables 3 and 8)."""

from __future__ import annotations

import dataclasses

import pandas as pd

from bench.claims import Claim, SummaryRow, Tolerance, published_ablation_fid, published_fid_ratio
from bench.studies.catalogue import ABLATION_LAMBDA, CONTROL, LAMBDAS, LARGEST, MIDDLE, SMALLEST, STATIC
from bench.studies.scores import STEPS
from bench.studies.spread import CONVERGED, FID, Runs, Spread

TIER = "study"
_EVIDENCE = "runs.csv"


def study_claims(frame: pd.DataFrame) -> list[SummaryRow]:
    """One row with a verdict for each claim of the paper that the study can judge."""
    runs = Runs(frame)
    return [*_ratios(runs), *_larger_loses_less(runs), *_quality_kept(runs), *_ablated(runs)]


def _ratios(runs: Runs) -> list[SummaryRow]:
    frame = runs.frame[(runs.frame["run"] == "both") & (runs.frame["steps"] == STEPS)]
    rows = []
    for target in sorted(frame["lambda"].unique()):
        group = frame[frame["lambda"] == target].assign(off=lambda runs: (runs["ratio"] - runs["lambda"]).abs())
        worst = group.sort_values("off").iloc[-1]
        claim = Claim(
            f"study-ratio-{target}",
            "DyDiT, Section 3.4",
            f"digits, DyDiT lambda={target}, the farthest of {len(group)} runs ({worst['stage']})",
            "FLOPs of the blocks relative to static (claimed by the masks)",
            "",
            target,
        )
        tolerance = Tolerance.symmetric(CONVERGED, "what a run must reach to count as converged")
        drawn = group["sampled_ratio"]
        note = (
            f"over all 1000 timesteps; mean of the runs {group['ratio'].mean():.4f}; over the {STEPS} steps of a "
            f"guided run {drawn.min():.3f} to {drawn.max():.3f}"
        )
        rows.append(SummaryRow.judged(claim, float(worst["ratio"]), tolerance, TIER, _EVIDENCE, note))
    return rows


def _larger_loses_less(runs: Runs) -> list[SummaryRow]:
    """The largest size against the smallest, each over its own control; Table 8 prints no XL above 0.7."""
    small, large = SMALLEST, LARGEST
    rows = []
    for target in LAMBDAS:
        big = "XL" if target <= 0.7 else "B"
        losses = {size: runs.against_control("both", target, size) for size in (small, large)}
        quotient = Spread.of([a / b for a, b in zip(losses[large], losses[small], strict=True)])
        sides = "; ".join(f"size {size}: {Spread.of(values)} of its control" for size, values in losses.items())
        rows.append(
            _direction(
                f"study-larger-{target}",
                "DyDiT, Table 8",
                f"digits, lambda={target}: loss of quality, largest / smallest size (published: {big} / S)",
                published_fid_ratio(big, target) / published_fid_ratio("S", target),
                quotient,
                sides,
            )
        )
    return rows


def _quality_kept(runs: Runs) -> list[SummaryRow]:
    """Table 8's best case, XL at lambda 0.5 and 0.7, whose static model was not trained further; the control was."""
    large = LARGEST
    rows = []
    for target in (0.7, 0.5):
        spread = Spread.of(runs.against_control("both", target, large))
        static = Spread.of(runs.over("both", target, STATIC, None, large))
        extra = Spread.of(runs.over(CONTROL, None, STATIC, None, large))
        rows.append(
            _direction(
                f"study-kept-{target}",
                "DyDiT, Table 8",
                f"digits, largest size, lambda={target}: DyDiT / static trained equally long",
                published_fid_ratio("XL", target),
                spread,
                f"over the static model that was not trained further: DyDiT {static}, control {extra}",
            )
        )
    return rows


def _ablated(runs: Runs) -> list[SummaryRow]:
    target = ABLATION_LAMBDA
    full, tdw_only = published_ablation_fid("both"), published_ablation_fid("tdw-only")
    rows = []
    middle, large = MIDDLE, LARGEST
    for run, size, text, published in (
        ("tdw-only", middle, "both mechanisms / TDW alone", full / tdw_only),
        ("tdw-only", large, "both mechanisms / TDW alone", full / tdw_only),
        ("sdt-only", middle, "both mechanisms / SDT alone", full / published_ablation_fid("sdt-only")),
        ("sdt-only", large, "both mechanisms / SDT alone", full / published_ablation_fid("sdt-only")),
        (
            "random",
            middle,
            "learned / random routing",
            tdw_only / published_ablation_fid("random"),
        ),
        ("layer-skip", middle, "tokens skipped / layers skipped", full / published_ablation_fid("layer-skip")),
        ("no-ordering", middle, "with / without importance ordering", None),
        ("no-warmup", middle, "with / without complete-model warm-up", None),
    ):
        spread = Spread.of(runs.over("both", target, run, target, size))
        loss = Spread.of(runs.over("both", target, run, target, size, "loss"))
        note = f"loss {loss}"
        if published is None:
            note += "; the paper claims it in words: 1 stands for no difference"
        else:
            note += "; published: averages of five data sets"
        source = "DyDiT, Table 3" if published is not None else "DyDiT, Section 3"
        text = f"digits, size {size}, lambda={target}: {text}"
        rows.append(_direction(f"study-{run}-{size}", source, text, published or 1.0, spread, note))
    return rows


def _direction(claim_id: str, source: str, row: str, published: float, measured: Spread, note: str) -> SummaryRow:
    """A quotient that must lie below 1, by more than its seeds' spread."""
    claim = Claim(claim_id, source, row, f"{FID} ratio", "x", published)
    reason = "claim in words: below 1, by more than the seeds' spread; another data set, so not by how much"
    tolerance = Tolerance(float("inf"), 1 - published, reason)
    said = f"95 % interval {measured.low:.3f} to {measured.high:.3f}; {note}"
    judged = SummaryRow.judged(claim, measured.mean, tolerance, TIER, _EVIDENCE, said)
    if measured.separated:
        return judged
    return dataclasses.replace(judged, verdict="deviates", note=f"no difference beyond the seeds' spread: {said}")
