"""Quality and drift of every entry, paired: the same labels, noise and real images for all. Kept by content."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.comparison.entries import STATIC, Entry
from bench.comparison.sampled import build, draw_images, source_sha256
from bench.data.image_set import of_tensor
from bench.machine import Task, arithmetic, run_tasks
from bench.quality.drift import measure_drift
from bench.quality.features import extractor
from bench.quality.measure import evaluate
from bench.records import file_sha256, read_arrays, read_json, read_kept, tensors_sha256, whole_file, write_json
from bench.studies.catalogue import Study
from bench.studies.scores import METRICS

THREADS = 1


@dataclass(frozen=True)
class Scoring:
    """What is drawn from every entry, with which trained files, and where the scores are kept."""

    study: Study
    models: Path
    directory: Path
    images: int
    seeds: tuple[int, ...]

    @property
    def weights(self) -> Path:
        """Of the classifier whose features the metrics take."""
        assert self.study.classifier is not None
        return self.models / self.study.classifier.weights.name


def score_entries(scoring: Scoring, entries: Sequence[Entry], processes: int) -> pd.DataFrame:
    """One row per entry and seed: `METRICS`, and the drift from the static model's images of the same noise.

    A trained entry has weights of each seed, the others have the same weights; all have the noise of each seed. Drift
    is mean squared error of bytes, median PSNR in dB, and FID between the two sets; the static model's own, drawn a
    second time, is the control and must read 0.

    Raises:
        InputError: a trained file is missing, or a network does not fit.
    """
    scoring.directory.mkdir(parents=True, exist_ok=True)
    static = next(entry for entry in entries if entry.name == STATIC)
    needs = {entry.name: () if entry is static else (static.name,) for entry in entries}
    tasks = [
        Task(entry.name, functools.partial(_score, scoring, entry, static), needs[entry.name]) for entry in entries
    ]
    run_tasks(tasks, processes, "scoring methods")
    kept = (read_json(_file(scoring, entry), "repeat the run, which scores it again", "rows") for entry in entries)
    return pd.DataFrame([row for record in kept for row in record["rows"]])


def _score(scoring: Scoring, entry: Entry, static: Entry) -> str:
    with arithmetic(THREADS, tf32=False):
        identity = _identity(scoring, entry, static)
        path = _file(scoring, entry)
        drawn = [_images_file(scoring, seed) for seed in scoring.seeds] if entry.name == STATIC else []
        if read_kept(path, identity, [file.name for file in drawn]) is not None:
            return ""
        rows = [_row(scoring, entry, static, seed) for seed in scoring.seeds]
    sums = {file.name: file_sha256(file) for file in drawn}
    write_json({"identity": identity, "rows": rows, "files": sums}, path)
    return f"{entry.name}: FID {sum(row['FID'] for row in rows) / len(rows):.2f}"


def _row(scoring: Scoring, entry: Entry, static: Entry, seed: int) -> dict[str, Any]:
    candidate = build(entry, seed, scoring.models)
    images, labels = draw_images(entry, candidate, scoring.images, seed)
    if entry.name == STATIC:
        _keep_images(scoring, seed, images, labels)
        images, _ = draw_images(entry, build(entry, seed, scoring.models), scoring.images, seed)  # the control
    real = scoring.study.load(None).images
    measured = evaluate(images, real, extractor=scoring.study.extractor, weights=scoring.weights)
    (kept,) = read_arrays(_images_file(scoring, seed), "images", remedy="remove it and score again")
    base = of_tensor(torch.from_numpy(kept), STATIC)
    weights = extractor(scoring.study.extractor).weights(scoring.weights)
    drift = measure_drift(of_tensor(images, entry.name), base, scoring.study.extractor, weights)
    psnr = float(np.median(drift.psnr()))
    return {
        "method": entry.name,
        "seed": seed,
        "images": scoring.images,
        **{metric: measured[metric].value for metric in METRICS},
        "drift_mse": float(drift.errors.mean()),
        "drift_psnr": psnr if np.isfinite(psnr) else None,  # equal images have no finite one, and JSON no infinity
        "drift_fid": drift.fid,
    }


def _identity(scoring: Scoring, entry: Entry, static: Entry) -> dict[str, Any]:
    """What decides the scores: the entry, its weights and code, the images, and what they are compared with."""
    own = [build(entry, seed, scoring.models) for seed in scoring.seeds]
    base = build(static, scoring.seeds[0], scoring.models)
    return {
        "entry": [entry.name, entry.network, entry.method, entry.sampler, entry.steps],
        "weights": [tensors_sha256(candidate.state_dict()) for candidate in own],
        "source": source_sha256(own[0]),
        "static": [tensors_sha256(base.state_dict()), source_sha256(base) or "", static.steps],
        "classifier_sha256": file_sha256(scoring.weights),
        "images": scoring.images,
        "seeds": list(scoring.seeds),
    }


def _file(scoring: Scoring, entry: Entry) -> Path:
    name = "".join(letter if letter.isalnum() or letter in "-.+" else "_" for letter in entry.name)
    return scoring.directory / f"{name}.json"


def _images_file(scoring: Scoring, seed: int) -> Path:
    return scoring.directory / f"{STATIC}-s{seed}.npz"


def _keep_images(scoring: Scoring, seed: int, images: Tensor, labels: Tensor) -> None:
    with whole_file(_images_file(scoring, seed)) as partial, partial.open("wb") as file:
        np.savez_compressed(file, images=images.numpy(), labels=labels.numpy())
