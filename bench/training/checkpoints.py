"""Checkpoints of a training on disk: written whole or not at all, and read without running code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.machine import status
from bench.records import writing
from bench.training import checkpoints
from bench.training.job import FinetuneOptions, TrainingJob
from dydit import InputError, first_line
from dydit.checkpoint.atomic import atomic_path

# Checkpoints of a run


def save_checkpoint(options: FinetuneOptions, job: TrainingJob, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint of the training's `state`, and remove all but the last `keep`.

    Raises:
        InputError: it cannot be written; those before it stay.
    """
    path = options.out / "checkpoints" / f"{state['step']:08d}.pt"
    content = {"schema_version": checkpoints.SCHEMA_VERSION, "identity": job.identity, "training": state}
    checkpoints.write_training(path, content)
    for old in sorted(path.parent.glob("[0-9]*.pt"))[: -options.keep]:
        old.unlink()
    return path


def resumable(job: TrainingJob, path: Path) -> dict[str, Any]:
    """The state in which a checkpoint of the same run left its training.

    Raises:
        InputError: it is of another run; the first field that differs is named.
    """
    content = checkpoints.read_training(path)
    mine, theirs = _flat(job.identity), _flat(content["identity"])
    for name in (*mine, *theirs):
        if mine.get(name) != theirs.get(name):
            raise InputError(
                f"output {path.parents[1]}: holds a run with {name} = {theirs.get(name)}, this one has "
                f"{mine.get(name)}; choose another directory"
            )
    state: dict[str, Any] = content["training"]
    return state


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return flat


SCHEMA_VERSION = 1
"""Version of the checkpoints; to be raised when a field changes its meaning."""


def newest_checkpoint(out: Path) -> Path | None:
    """The checkpoint of the most steps that is whole; one that is cut short is told and passed over."""
    for path in sorted((out / "checkpoints").glob("[0-9]*.pt"), reverse=True):
        try:
            _load(path)
        except InputError as error:
            status(f"passed over: {error}")
        else:
            return path
    return None


def read_training(path: Path) -> dict[str, Any]:
    """A checkpoint as `write` was given it; tensors are mapped from the file.

    Raises:
        InputError: it is not whole, or of a newer schema than this code knows.
    """
    content = _load(path)
    if (version := content["schema_version"]) > SCHEMA_VERSION:
        raise InputError(f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}; update the project")
    return content


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        int(content["schema_version"]), content["identity"], content["training"]["step"]
    except Exception as error:  # damaged bytes raise many kinds
        raise InputError(f"{path}: not a whole checkpoint of a run ({first_line(error)})") from None
    return dict(content)


def write_training(path: Path, content: Any) -> None:
    """Write tensors and plain containers, whole or not at all.

    Raises:
        InputError: the file cannot be written; what was there before stays.
    """
    # Through a file of Python's: torch's own does not say what is wrong with it.
    with writing(path), atomic_path(path) as partial, partial.open("wb") as file:
        torch.save(content, file)
