"""Scores of every model of the study on digits: quality of its images, loss, FLOPs ratio and rates; kept beside it."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.data.image_set import of_tensor
from bench.machine import Task, arithmetic, run_tasks
from bench.quality.drift import measure_drift
from bench.quality.features import extractor
from bench.quality.measure import evaluate
from bench.records import file_sha256, read_arrays, read_json, read_kept, whole_file, write_json
from bench.studies.catalogue import ABLATION_LAMBDA, CONTROL, MIDDLE, SEEDS, STATIC, Stage, Study
from bench.studies.samples import Sampling, Variant, draw_samples, load_stage
from bench.studies.train import TRAINING_THREADS, Evaluated, classifier_accuracy, evaluated
from dydit import DiTConfig, flops_ratio

IMAGES = 1000
"""Drawn from every model of a study, unless the study says otherwise."""
STEPS = 25
SAMPLER_STEPS = (250, 50, 20, 10, 4)
"""Step counts at which DyDiT at lambda 0.5 and the control are sampled besides: does routing fit other samplers?"""
QUARTERS, TIMESTEPS = 4, 1000
TOKENS = 4800
"""Of a batch: larger ones leave the caches of a core, and are slower."""
ROUTED = ("ratio", "heads", "groups", "tokens", "objects", "background", "early_width", "late_width", "between_images")
"""Columns that say what the routers of a model did over training's draws."""
METRICS = ("FID", "IS", "precision", "recall", "KID")


def score_all(
    study: Study, directory: Path, *, processes: int = 1, images: int = IMAGES, data_root: Path | None = None
) -> pd.DataFrame:
    """Score every trained stage in `directory`; one row per stage and number of sampling steps, in the study's order.

    `scores/STAGE.json` keeps the rows, and is made anew only when the weights, the classifier or the sampling changed.
    Image k of every model of one seed has the same label and noise.

    Columns: stage, size, run, lambda (NaN: static), seed (of the images, too), steps, images; `ratio`, `heads`,
    `groups` and `tokens` of the masks over training's draws, all 1000 timesteps, which the FLOPs loss holds to lambda;
    `sampled_ratio` over the guided run; `loss` on fixed draws; `METRICS`; `accuracy`, the share of images that the
    classifier gives the label they were drawn for, beside `real_accuracy`, that of the real images; `objects` and
    `background`, shares of tokens that bypass the MLP among those that hold more than black background in the clean
    image, and among the others; `early_width` and `late_width`, shares of heads and channel groups that are open in the
    first and last quarter of a run, of which the first has the most noise; `between_images`, the standard deviation of
    token decisions between images within a quarter, mean over blocks, tokens and quarters; and the drift from the
    static model that it was made from, see `bench.quality.drift`:
    `drift_mse` (mean), `drift_psnr` (median, dB) and `drift_fid`.

    Raises:
        InputError: a stage is not trained yet.
    """
    scores = directory / "scores"
    scores.mkdir(exist_ok=True)
    tasks = [
        Task(stage.name, functools.partial(_score, study, stage, directory, images, data_root), _compared_with(stage))
        for stage in study.stages
    ]
    run_tasks(tasks, processes, f"scoring {study.name}")
    return pd.DataFrame([row for stage in study.stages for row in _kept(stage, directory)["rows"]])


def _compared_with(stage: Stage) -> tuple[str, ...]:
    """The static model whose images of the same noise a stage's are compared with."""
    return (stage.parent,) if stage.parent is not None else ()


def _images_file(directory: Path, stage: str, seed: int) -> Path:
    return directory / "scores" / f"{stage}-s{seed}.npz"


def sampler_steps(stage: Stage) -> tuple[int, ...]:
    """How many steps a stage's images are drawn in, the study's own number first."""
    asked = stage.size == MIDDLE and (stage.run, stage.recipe.target) in (
        (CONTROL, None),
        ("both", ABLATION_LAMBDA),
    )
    return (STEPS, *SAMPLER_STEPS) if asked else (STEPS,)


def _score(study: Study, stage: Stage, directory: Path, images: int, data_root: Path | None) -> str:
    assert study.classifier is not None, f"{study.name}: a study without a classifier is not scored here"
    path = directory / "scores" / f"{stage.name}.json"
    model = load_stage(stage.name, directory)
    weights = directory / study.classifier.weights.name
    # One static model stands beside every seed: it is drawn with the noise of each.
    seeds = SEEDS if stage.run == STATIC else (stage.recipe.seed,)
    identity = {
        "checkpoint_sha256": file_sha256(directory / f"{stage.name}.safetensors"),
        "classifier_sha256": file_sha256(weights),
        "images": images,
        "steps": list(sampler_steps(stage)),
        "seeds": list(seeds),
        "columns": [*ROUTED, *METRICS],
    }
    drawn_files = [_images_file(directory, stage.name, seed) for seed in seeds] if stage.run == STATIC else []
    if read_kept(path, identity, [file.name for file in drawn_files]) is not None:
        return ""
    data = study.load(data_root)
    real, truth = (data.images, data.labels) if study.reference is None else study.reference(data_root)
    with arithmetic(TRAINING_THREADS, tf32=False):
        seen = evaluated(model, data.x, data.labels)
        quarters = _by_quarter(seen)
        real_accuracy = classifier_accuracy(study, directory, real, truth)
        rows = []
        for seed, steps in itertools.product(seeds, sampler_steps(stage)):
            sampling = Sampling(images, steps, batch_size=TOKENS // stage.network.tokens, seed=seed)
            drawn = draw_samples(Variant(stage.name, stage.name), sampling, directory)
            measured = evaluate(drawn.images, real, extractor=study.extractor, weights=weights)
            row: dict[str, Any] = {"stage": stage.name, "size": stage.size, "run": stage.run}
            row |= {"lambda": stage.recipe.target, "seed": seed, "steps": steps, "images": images, "loss": seen.loss}
            row |= _routed(seen, stage.network, quarters) | {"sampled_ratio": drawn.flops_ratio}
            row |= {metric: measured[metric].value for metric in METRICS}
            row["accuracy"] = classifier_accuracy(study, directory, drawn.images, drawn.labels)
            row["real_accuracy"] = real_accuracy
            rows.append(row | _drift(study, stage, directory, drawn.images, seed, steps))
            if stage.run == STATIC and steps == STEPS:
                with whole_file(_images_file(directory, stage.name, seed)) as partial, partial.open("wb") as file:
                    np.savez_compressed(file, images=drawn.images.numpy())
    facts: dict[str, Any] = {
        "stage": stage.name,
        "run": stage.run,
        "lambda": stage.recipe.target,
        "seed": stage.recipe.seed,
    }
    record = {"identity": identity, "rows": rows, "quarters": [facts | quarter for quarter in quarters]}
    write_json(record | {"files": {file.name: file_sha256(file) for file in drawn_files}}, path)
    return f"{stage.name}: FID[{study.extractor}] {rows[0]['FID']:.2f}"


def _drift(
    study: Study, stage: Stage, directory: Path, images: Tensor, seed: int, steps: int
) -> dict[str, float | None]:
    """How far images lie from those that the parent drew from the same noise; nothing without parent."""
    assert study.classifier is not None
    if stage.parent is None or steps != STEPS:
        return dict.fromkeys(("drift_mse", "drift_psnr", "drift_fid"))
    path = _images_file(directory, stage.parent, seed)
    (images_before,) = read_arrays(path, "images", remedy="remove it and score again")
    started = of_tensor(torch.from_numpy(images_before), stage.parent)
    weights = extractor(study.extractor).weights(directory / study.classifier.weights.name)
    drift = measure_drift(of_tensor(images, stage.name), started, study.extractor, weights)
    psnr = float(np.median(drift.psnr()))
    return {
        "drift_mse": float(drift.errors.mean()),
        "drift_psnr": psnr if np.isfinite(psnr) else None,  # equal images have no finite one, and JSON no infinity
        "drift_fid": drift.fid,
    }


def quarters_table(study: Study, directory: Path) -> pd.DataFrame:
    """Where and when each scored model is open; one row per dynamic stage and quarter of the timesteps.

    Quarter 1 is [0, 250), the least noise. Columns `heads` and `groups` are open shares of the widths, `objects` and
    `background` those of tokens that hold more than black background in the clean image, and of the others, and
    `between_images` the standard deviation of token decisions between images, mean over blocks and tokens.
    """
    return pd.DataFrame([row for stage in study.stages for row in _kept(stage, directory)["quarters"]])


def _kept(stage: Stage, directory: Path) -> dict[str, Any]:
    """What `_score` kept of a stage."""
    return read_json(
        directory / "scores" / f"{stage.name}.json", "repeat the run, which scores it again", "rows", "quarters"
    )


def _by_quarter(seen: Evaluated) -> list[dict[str, float]]:
    if seen.routing is None:
        return []
    rows, quarter = [], seen.timesteps * QUARTERS // TIMESTEPS
    for number in range(QUARTERS):
        chosen = quarter == number
        tokens, objects = seen.routing.tokens[chosen].float(), seen.objects[chosen]
        shares = tokens.mean(dim=1)  # (n, T), over blocks
        rows.append(
            {
                "quarter": number + 1,
                "heads": seen.routing.heads[chosen].float().mean().item(),
                "groups": seen.routing.channels[chosen].float().mean().item(),
                "objects": shares[objects].mean().item(),
                "background": shares[~objects].mean().item(),
                "between_images": tokens.std(dim=0).mean().item(),
            }
        )
    return rows


def _routed(seen: Evaluated, config: DiTConfig, quarters: list[dict[str, float]]) -> dict[str, float | None]:
    if seen.routing is None:
        return dict.fromkeys(ROUTED)
    heads, groups, tokens = seen.routing.rates
    routed = flops_ratio(seen.routing, config).mean().item()
    skipped = 1 - seen.routing.tokens.float().mean(dim=1)  # (N, T), over blocks
    objects, background = (skipped[chosen].mean().item() for chosen in (seen.objects, ~seen.objects))
    late, *_, early = ((quarter["heads"] + quarter["groups"]) / 2 for quarter in quarters)
    between = float(np.mean([quarter["between_images"] for quarter in quarters]))
    values = (routed, heads, groups, tokens, objects, background, early, late, between)
    return dict(zip(ROUTED, values, strict=True))
