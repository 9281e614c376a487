"""Scores of every model of the study on digits: quality of its images, loss, FLOPs ratio and rates; kept beside it."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import pandas as pd

from bench.data import preprocessing
from bench.machine import Task, arithmetic, run_tasks
from bench.quality.measure import evaluate
from bench.records import file_sha256, write_json
from bench.studies.catalogue import ABLATION_LAMBDA, CONTROL, MIDDLE, SEEDS, STATIC, Stage, Study
from bench.studies.samples import Sampling, Variant, draw_samples, load_stage
from bench.studies.train import THREADS, evaluated
from dydit import DiTConfig, Routing, flops_ratio

IMAGES = 1000
"""Drawn from every model of a study, unless the study says otherwise."""
STEPS = 25
SAMPLER_STEPS = (250, 50, 20, 10, 4)
"""Step counts at which DyDiT at lambda 0.5 and the control are sampled besides: does routing fit other samplers?"""
METRICS = ("FID", "IS", "precision", "recall")


def score_all(
    study: Study, directory: Path, *, processes: int = 1, images: int = IMAGES, data_root: Path | None = None
) -> pd.DataFrame:
    """Score every trained stage in `directory`; one row per stage and number of sampling steps, in the study's order.

    `scores/STAGE.json` keeps the rows, and is made anew only when the weights, the classifier or the sampling changed.
    Image k of every model of one seed has the same label and noise.

    Columns: stage, size, run, lambda (NaN: static), seed (of the images, too), steps, images; `ratio`, `heads`,
    `groups` and `tokens` of the masks over training's draws, all 1000 timesteps, which the FLOPs loss holds to lambda;
    `sampled_ratio` over the guided run; `loss` on fixed draws; and `METRICS`.

    Raises:
        InputError: a stage is not trained yet.
    """
    scores = directory / "scores"
    scores.mkdir(exist_ok=True)
    tasks = [
        Task(stage.name, functools.partial(_score, study, stage, directory, images, data_root))
        for stage in study.stages
    ]
    run_tasks(tasks, processes, f"scoring {study.name}")
    rows = [row for stage in study.stages for row in json.loads((scores / f"{stage.name}.json").read_text())["rows"]]
    return pd.DataFrame(rows)


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
    }
    if path.is_file() and json.loads(path.read_text()).get("identity") == identity:
        return ""
    data = study.load(data_root)
    real = data.images if study.reference is None else study.reference(data_root)
    with arithmetic(THREADS, tf32=False):
        loss, routing = evaluated(model, preprocessing.to_model(data.images), data.labels)
        rows = []
        for seed, steps in itertools.product(seeds, sampler_steps(stage)):
            sampling = Sampling(images, steps, seed=seed)
            drawn = draw_samples(Variant(stage.name, stage.name), sampling, directory)
            measured = evaluate(drawn.images, real, extractor=study.extractor, weights=weights)
            rows.append(
                {"stage": stage.name, "size": stage.size, "run": stage.run, "lambda": stage.recipe.target, "seed": seed}
                | {"steps": steps, "images": images, "loss": loss}
                | _routed(routing, stage.network)
                | {"sampled_ratio": drawn.flops_ratio}
                | {metric: measured[metric].value for metric in METRICS}
            )
    write_json({"identity": identity, "rows": rows}, path)
    return f"{stage.name}: FID[{study.extractor}] {rows[0]['FID']:.2f}"


def _routed(routing: Routing | None, config: DiTConfig) -> dict[str, float | None]:
    if routing is None:
        return dict.fromkeys(("ratio", "heads", "groups", "tokens"))
    heads, groups, tokens = routing.rates
    ratio = flops_ratio(routing, config).mean().item()
    return {"ratio": ratio, "heads": heads, "groups": groups, "tokens": tokens}
