"""Scores of the committed models of the study on digits, and the paper's claims judged on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench.claims import Claim, SummaryRow, Tolerance, published_ablation_fid, published_fid_ratio
from bench.data.sets import digits
from bench.machine import track
from bench.quality.features import digits_cnn, extractors
from bench.quality.measure import Quality, evaluate, extract
from bench.quality.metrics.intervals import bootstrap_fid, bootstrap_fid_ratio
from bench.studies.samples import (
    DIRECTORY,
    GUIDANCE_SCALE,
    LAMBDAS,
    Rates,
    Sampling,
    Variant,
    compared_variants,
    draw_samples,
)
from bench.studies.spread import CONVERGED

EXTRACTOR = "digits-cnn"
STATIC, CONTROL = (variant.name for variant in compared_variants()[:2])
RATIO_TOLERANCE = Tolerance.symmetric(CONVERGED, "what a run must reach to count as converged")
RESAMPLES = 100


@dataclass(frozen=True)
class Score:
    """One variant's metrics, FID interval, features (N, 64), and achieved FLOPs ratio and rates (None: static)."""

    quality: Quality
    interval: tuple[float, float]
    features: Tensor
    flops_ratio: float | None
    rates: Rates | None


@dataclass(frozen=True)
class CommittedScores:
    """Scores of every variant, features of the real digits, and how the samples were drawn."""

    scores: Mapping[str, Score]
    reference: Tensor
    floor: Quality
    sampling: Sampling

    def fid_ratio(self, name: str, baseline: str) -> tuple[float, float, float]:
        """FID(name) / FID(baseline) with a 95 % interval; images of equal index are resampled together."""
        pair = (self.scores[name].features.numpy(), self.scores[baseline].features.numpy())
        return bootstrap_fid_ratio(*pair, self.reference.numpy(), resamples=RESAMPLES)


def score_committed(sampling: Sampling, directory: Path = DIRECTORY) -> CommittedScores:
    """Sample and score every variant.

    Raises:
        InputError: a checkpoint or the extractor's weights are missing.
    """
    weights = directory / digits_cnn.DIGITS_WEIGHTS.name
    extractors.extractor(EXTRACTOR).weights(weights)
    real = digits.load_digits().images
    reference = _features(real, weights)
    scores: dict[str, Score] = {}
    rates: dict[str, Rates | None] = {}
    for variant in track(compared_variants(), "small-scale study"):
        score = _score(variant, sampling, directory, weights, real, reference, rates.get(variant.stage))
        scores[variant.name] = score
        rates.setdefault(variant.stage, score.rates)  # the learned run stands first
    halves = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(sampling.seed))].chunk(2)
    floor = evaluate(halves[0], halves[1], extractor=EXTRACTOR, weights=weights)
    return CommittedScores(scores, reference, floor, sampling)


def quality_table(study: CommittedScores) -> pd.DataFrame:
    """One row per variant and metric (quality.csv); the last rows compare two halves of the real digits."""
    drawn = {
        "steps": study.sampling.steps,
        "guidance_scale": GUIDANCE_SCALE,
        "seed": study.sampling.seed,
    }
    rows: list[dict[str, Any]] = []
    for name, score in study.scores.items():
        for row in _metric_rows(score.quality):
            low, high = score.interval if row["metric"] == _fid_name() else (None, None)
            rows.append({"model": name, "dataset": "digits", **row, "low": low, "high": high} | drawn)
        if score.flops_ratio is not None:
            rows.append(
                {"model": name, "dataset": "digits", "metric": "FLOPs ratio", "value": score.flops_ratio} | drawn
            )
    halves = {"model": "real digits, half against half", "dataset": "digits"}
    floor = [halves | row for row in _metric_rows(study.floor)]
    columns = ("model", "dataset", "metric", "value", "low", "high", "n_samples", "n_reference")
    frame = pd.DataFrame(rows + floor)
    return frame[[*columns, *(column for column in frame.columns if column not in columns)]]


def _metric_rows(measured: Quality) -> list[dict[str, Any]]:
    """One row per metric, without the names of the sets: `model` and `dataset` say what was compared."""
    return [
        {key: cell for key, cell in row.items() if key not in ("samples", "reference", "std")}
        for row in measured.rows()
    ]


def committed_claims(study: CommittedScores, tier: str) -> list[SummaryRow]:
    """The paper's claims at this scale: FLOPs reached, quality kept, routing learned, and the missing control."""
    rows = []
    for target in LAMBDAS:
        name = f"DyDiT lambda={target}"
        rows += [
            _reached(study, name, target, tier),
            _against_static(study, name, target, tier),
            _against_random(study, name, target, tier, "random", "at the learned overall rates"),
            _against_random(study, name, target, tier, "shuffled", "at the learned rates of every block and step"),
            _against_control(study, name, target, tier),
        ]
    return rows


def _score(
    variant: Variant,
    sampling: Sampling,
    directory: Path,
    weights: Path,
    real: Tensor,
    reference: Tensor,
    rates: Rates | None,
) -> Score:
    samples = draw_samples(variant, sampling, directory, rates)
    generated = _features(samples.images, weights)
    return Score(
        quality=evaluate(samples.images, real, extractor=EXTRACTOR, weights=weights),
        interval=bootstrap_fid(generated.numpy(), reference.numpy(), resamples=RESAMPLES),
        features=generated,
        flops_ratio=samples.flops_ratio,
        rates=samples.rates,
    )


def _features(images: Tensor, weights: Path) -> Tensor:
    layer = extractors.extractor(EXTRACTOR).features_layer
    return extract(images, [layer], extractor=EXTRACTOR, weights=weights)[layer]


def _fid_name() -> str:
    return extractors.extractor(EXTRACTOR).metric("FID")


def _reached(study: CommittedScores, name: str, target: float, tier: str) -> SummaryRow:
    claim = Claim(
        f"digits-flops-ratio-{target}",
        "DyDiT, Section 3.4",
        f"digits, {name}",
        "FLOPs of the blocks relative to static (claimed by the masks)",
        "",
        target,
    )
    measured = study.scores[name].flops_ratio
    assert measured is not None  # only static variants have none
    note = f"mean over {study.sampling.steps} DDPM steps, both guidance branches"
    return SummaryRow.judged(claim, measured, RATIO_TOLERANCE, tier, f"quality.csv: {name}, FLOPs ratio", note)


def _against_static(study: CommittedScores, name: str, target: float, tier: str) -> SummaryRow:
    """Table 8 gives DyDiT-S / DiT-S: the smallest model of the paper is the nearest to this one."""
    published = published_fid_ratio("S", target)
    note = "published ratio: DyDiT-S / DiT-S on ImageNet"
    return _fid_claim(study, name, STATIC, f"digits-fid-static-{target}", published, tier, note)


def _against_control(study: CommittedScores, name: str, target: float, tier: str) -> SummaryRow:
    """The paper compares DyDiT-XL with a DiT-XL that was not trained further; here the baseline was."""
    published = published_fid_ratio("XL", target)
    extra, _, _ = study.fid_ratio(CONTROL, STATIC)
    note = (
        "published ratio: DyDiT-XL / DiT-XL without further training; measured against the static model fine-tuned for "
        f"the same steps, whose own FID is {extra:.3f} of the static model's"
    )
    return _fid_claim(study, name, CONTROL, f"digits-fid-control-{target}", published, tier, note)


def _against_random(
    study: CommittedScores, name: str, target: float, tier: str, routing: str, rates: str
) -> SummaryRow:
    published = published_ablation_fid("random") / published_ablation_fid("tdw-only")
    ratio, low, high = study.fid_ratio(f"{name}, {routing} routing", name)
    claim = Claim(
        f"digits-fid-{routing}-{target}",
        "DyDiT, Table 3",
        f"digits, {name}: {routing} / learned routing",
        f"{_fid_name()} ratio",
        "x",
        published,
    )
    tolerance = Tolerance(published - 1.1, float("inf"), "claim in words: learned routing is better by more than 10 %")
    note = f"95 % interval {low:.3f} to {high:.3f}; random places {rates}, not trained for"
    return SummaryRow.judged(claim, ratio, tolerance, tier, f"quality.csv: {name}", note)


def _fid_claim(
    study: CommittedScores, name: str, baseline: str, claim_id: str, published: float, tier: str, note: str
) -> SummaryRow:
    ratio, low, high = study.fid_ratio(name, baseline)
    claim = Claim(claim_id, "DyDiT, Table 8", f"digits, {name} / {baseline}", f"{_fid_name()} ratio", "x", published)
    tolerance = Tolerance.symmetric(0.25, "another data set and model size: the direction and rough size are the claim")
    interval = f"95 % interval {low:.3f} to {high:.3f} of the measured ratio"
    return SummaryRow.judged(claim, ratio, tolerance, tier, f"quality.csv: {name}; {baseline}", f"{interval}; {note}")
