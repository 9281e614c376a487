"""The files that a finished training leaves: weights with their record, the published layout, a model card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bench.machine import status
from bench.records import clear_write_errors, whole_file
from bench.training.checkpoints import write_tensors
from bench.training.job import TrainingJob
from bench.training.log import training_outcome
from dydit import InputError, checkpoint
from dydit.checkpoint import model_card


def export_model(
    job: TrainingJob, weights: Mapping[str, Mapping[str, Tensor]], made_by: Mapping[str, str], log: str
) -> Path:
    """Write the `weights` of a finished training as `model.safetensors`, `model.pt` and `README.md`.

    Args:
        job: of which the training is finished.
        weights: `ema` and `model`, each tensors by their key.
        made_by: see `bench.records.provenance`.
        log: the text of `log.csv`.

    Returns:
        The path of `model.safetensors`.

    Raises:
        InputError: a file cannot be written.
    """
    out, training, recipe = job.options.out, job.training, job.plan.recipe
    outcome = training_outcome(log, recipe)
    record = {
        "recipe": json.dumps(dataclasses.asdict(recipe), sort_keys=True),
        "recipe_source": job.plan.source,
        "ordered": str(job.plan.ordered),
        "precision": job.identity["precision"],
        "seed": str(recipe.seed),
        "data": job.data.name,
        "data_sha256": job.data.sha256,
        "classes": json.dumps(job.data.classes),
        **({} if job.label_table is None else {"label_table": job.label_table}),
        "parent_sha256": job.identity["parent_sha256"],
        **made_by,
        **outcome,
    }
    path = out / "model.safetensors"
    _keep_earlier(path, recipe.steps)
    states = {name: {key: value.cpu() for key, value in state.items()} for name, state in weights.items()}
    write_tensors(states, out / "model.pt")
    averaged = training.kind(**training.model.config.kwargs())
    averaged.load_state_dict(states["ema"])
    with clear_write_errors(path):
        checkpoint.write(path, averaged, record)
    with whole_file(out / "README.md") as partial:
        partial.write_text(model_card.card_text(averaged, record), encoding="utf-8")
    return path


def _keep_earlier(path: Path, steps: int) -> None:
    """Give the model of a run that was shorter before a name of its own, `model-STEPS.safetensors`."""
    if path.is_file():
        try:
            earlier = json.loads(checkpoint.read(path).record.get("recipe", "{}")).get("steps")
        except InputError as error:
            status(f"made again: {error}")
            return
        if earlier not in (None, steps):
            path.rename(path.with_name(f"{path.stem}-{earlier}{path.suffix}"))
