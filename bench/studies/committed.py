"""Scores of the committed models of the study on digits: one training each, of the middle size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench.data.sets import digits
from bench.machine import track
from bench.quality.features import classifiers, extractors
from bench.quality.measure import Quality, evaluate, extract
from bench.quality.metrics.intervals import bootstrap_fid, bootstrap_fid_ratio
from bench.studies.samples import (
    DIRECTORY,
    GUIDANCE_SCALE,
    Rates,
    Sampling,
    Variant,
    compared_variants,
    draw_samples,
)

EXTRACTOR = "digits-cnn"
STATIC, CONTROL = (variant.name for variant in compared_variants()[:2])
RESAMPLES = 100


@dataclass(frozen=True)
class Score:
    """One variant's metrics, FID interval and features (N, 64).

    `flops_ratios` (N,) are those of its images, `rates` its open shares (None: static).
    """

    quality: Quality
    interval: tuple[float, float]
    features: Tensor
    flops_ratios: Tensor | None
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
    weights = directory / classifiers.DIGITS.weights.name
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
    fid = extractors.extractor(EXTRACTOR).metric("FID")
    rows: list[dict[str, Any]] = []
    for name, score in study.scores.items():
        for row in _metric_rows(score.quality):
            low, high = score.interval if row["metric"] == fid else (None, None)
            rows.append({"model": name, "dataset": "digits", **row, "low": low, "high": high} | drawn)
        if score.flops_ratios is not None:
            ratio = score.flops_ratios.mean().item()
            rows.append({"model": name, "dataset": "digits", "metric": "FLOPs ratio", "value": ratio} | drawn)
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
        flops_ratios=samples.flops_ratios,
        rates=samples.rates,
    )


def _features(images: Tensor, weights: Path) -> Tensor:
    layer = extractors.extractor(EXTRACTOR).features_layer
    return extract(images, [layer], extractor=EXTRACTOR, weights=weights)[layer]
