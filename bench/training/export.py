"""The files that a finished training leaves: weights with their record, the published layout, a model card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.records import environment_record, writing
from bench.training import checkpoints
from bench.training.job import TrainingJob
from bench.training.log import training_outcome
from dydit import checkpoint
from dydit.checkpoint import model_card
from dydit.checkpoint.atomic import atomic_path


def provenance(device: str) -> dict[str, str]:
    """Command, commit and versions that exported files record, and the GPU where one trained them."""
    record = environment_record()
    commit = f"{record['commit']}{' (dirty)' if record['dirty'] else ''}"
    made_by = {"command": record["command"], "commit": commit, "torch": record["torch"]["version"]}
    return made_by | ({"device": torch.cuda.get_device_name()} if device == "cuda" else {})


def export_model(
    out: Path, job: TrainingJob, weights: Mapping[str, Mapping[str, Tensor]], made_by: Mapping[str, str]
) -> Path:
    """Write the `weights` of a training as `model.safetensors`, `model.pt` and `README.md`; the log must be complete.

    Raises:
        InputError: a file cannot be written.
    """
    training, recipe = job.training, job.plan.recipe
    outcome = training_outcome(out, recipe)
    record = {
        "recipe": json.dumps(dataclasses.asdict(recipe), sort_keys=True),
        "recipe_source": job.plan.source,
        "ordered": str(job.plan.ordered),
        "precision": job.identity["precision"],
        "seed": str(recipe.seed),
        "data": job.data.name,
        "data_sha256": job.data.sha256,
        "parent_sha256": job.identity["parent_sha256"],
        **made_by,
        **outcome,
    }
    path = out / "model.safetensors"
    states = {name: {key: value.cpu() for key, value in state.items()} for name, state in weights.items()}
    checkpoints.write_training(out / "model.pt", states)
    averaged = training.kind(**training.model.config.kwargs())
    averaged.load_state_dict(states["ema"])
    with writing(path):
        checkpoint.write(path, averaged, record)
    card = out / "README.md"
    with writing(card), atomic_path(card) as partial:
        partial.write_text(model_card.card_text(averaged, record), encoding="utf-8")
    return path
