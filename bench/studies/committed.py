"""Scores of the models of a study that come with the project: one training each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bench.machine import track
from bench.quality.features import extractor
from bench.quality.measure import Quality, evaluate, extract
from bench.quality.metrics.frechet import FidReference
from bench.quality.metrics.intervals import bootstrap_fid, bootstrap_fid_ratio
from bench.quality.metrics.moments import of_features
from bench.quality.references.reference import Reference
from bench.quality.references.resolve import resolve_reference
from bench.records import check_listed
from bench.studies.samples import GUIDANCE_SCALE, SHIPPED_DIGITS, Rates, Sampling, Shipped, draw_samples, load_stage

STATIC, CONTROL = (variant.name for variant in SHIPPED_DIGITS.variants()[:2])
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
    """Scores of every variant, statistics of the real images, and how the samples were drawn.

    `floor` compares two halves of the real images; None where only their statistics are at hand.
    """

    shipped: Shipped
    scores: Mapping[str, Score]
    reference: FidReference
    floor: Quality | None
    sampling: Sampling

    def fid_ratio(self, name: str, baseline: str) -> tuple[float, float, float]:
        """FID(name) / FID(baseline) with a 95 % interval; images of equal index are resampled together."""
        pair = (self.scores[name].features.numpy(), self.scores[baseline].features.numpy())
        return bootstrap_fid_ratio(*pair, self.reference, resamples=RESAMPLES)


def check_shipped(shipped: Shipped, directory: Path) -> dict[str, str]:
    """See that everything is there that `score_committed` needs; SHA-256 (hexadecimal) of each file by its name.

    Raises:
        InputError: a checkpoint, the extractor's weights or the statistics are missing or broken.
    """
    names = dict.fromkeys(variant.stage for variant in shipped.variants())
    for name in names:
        load_stage(name, directory)
    statistics = resolve_reference(shipped.study.name)
    files = [directory / f"{name}.safetensors" for name in names] + [shipped.weights(directory)]
    sums = {path.name: check_listed(path) for path in files}
    return sums | {f"statistics {statistics.name}": str(statistics.record["sha256"])}


def score_committed(
    sampling: Sampling, directory: Path | None = None, shipped: Shipped = SHIPPED_DIGITS
) -> CommittedScores:
    """Sample and score every variant of `shipped`, from its own directory or a copy.

    Raises:
        InputError: a checkpoint, the extractor's weights or the statistics are missing.
    """
    directory = directory or shipped.directory
    name, weights = shipped.study.extractor, shipped.weights(directory)
    real: Tensor | Reference
    floor = None
    if shipped is SHIPPED_DIGITS:
        real = shipped.study.load(None).images
        reference = FidReference(of_features(_features(real, name, weights)))
        halves = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(sampling.seed))].chunk(2)
        floor = evaluate(halves[0], halves[1], extractor=name, weights=weights)
    else:
        real = resolve_reference(shipped.study.name)
        reference = FidReference(real.pool)
    scores: dict[str, Score] = {}
    rates: dict[str, Rates | None] = {}
    for variant in track(shipped.variants(), f"shipped models of {shipped.study.name}"):
        samples = draw_samples(variant, sampling, directory, rates.get(variant.stage))
        generated = _features(samples.images, name, weights)
        scores[variant.name] = Score(
            quality=evaluate(samples.images, real, extractor=name, weights=weights),
            interval=bootstrap_fid(generated.numpy(), reference, resamples=RESAMPLES),
            features=generated,
            flops_ratios=samples.flops_ratios,
            rates=samples.rates,
        )
        rates.setdefault(variant.stage, samples.rates)  # the learned run stands first
    return CommittedScores(shipped, scores, reference, floor, sampling)


def quality_table(study: CommittedScores) -> pd.DataFrame:
    """One row per variant and metric (quality.csv); the last rows compare two halves of the real images, if any."""
    dataset = study.shipped.study.name
    drawn = {
        "steps": study.sampling.steps,
        "guidance_scale": GUIDANCE_SCALE,
        "seed": study.sampling.seed,
    }
    fid = extractor(study.shipped.study.extractor).metric("FID")
    rows: list[dict[str, Any]] = []
    for name, score in study.scores.items():
        for row in _metric_rows(score.quality):
            low, high = score.interval if row["metric"] == fid else (None, None)
            rows.append({"model": name, "dataset": dataset, **row, "low": low, "high": high} | drawn)
        if score.flops_ratios is not None:
            ratio = score.flops_ratios.mean().item()
            rows.append({"model": name, "dataset": dataset, "metric": "FLOPs ratio", "value": ratio} | drawn)
    halves = {"model": f"real {dataset}, half against half", "dataset": dataset}
    floor = [halves | row for row in _metric_rows(study.floor)] if study.floor is not None else []
    columns = ("model", "dataset", "metric", "value", "low", "high", "n_samples", "n_reference")
    frame = pd.DataFrame(rows + floor)
    return frame[[*columns, *(column for column in frame.columns if column not in columns)]]


def _metric_rows(measured: Quality) -> list[dict[str, Any]]:
    """One row per metric, without the names of the sets: `model` and `dataset` say what was compared."""
    return [
        {key: cell for key, cell in row.items() if key not in ("samples", "reference", "std")}
        for row in measured.rows()
    ]


def _features(images: Tensor, name: str, weights: Path) -> Tensor:
    layer = extractor(name).features_layer
    return extract(images, [layer], extractor=name, weights=weights)[layer]
