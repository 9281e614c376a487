"""Checkpoints of a training on disk: written whole or not at all, and read without running code."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.data.image_set import Entry
from bench.machine import status
from bench.options import STEPS, Range
from bench.records import check_same_run, check_schema, clear_content_errors, whole_file
from dydit import InputError, first_line
from dydit.checkpoint.checksums import archive_sha256
from dydit.training import Recipe

SCHEMA_VERSION = 1
"""Version of the checkpoints; to be raised when a field changes its meaning."""


def save_checkpoint(
    out: Path,
    state: Mapping[str, Any],
    identity: Mapping[str, Any],
    classes: Sequence[Entry],
    keep: int,
    logs: Mapping[str, str],
) -> Path:
    """Write the `state` of a training, what decides its result, the classes of its data and the text of its `logs`.

    The last `keep` checkpoints up to this one stay, see `remove_others`.

    Raises:
        InputError: it cannot be written; those before it stay.
    """
    path = out / "checkpoints" / f"{state['step']:08d}.pt"
    content = {"schema_version": SCHEMA_VERSION, "identity": identity, "classes": list(classes), "training": state}
    write_tensors(content | {"logs": dict(logs)}, path)
    remove_others(path, keep)
    return path


def remove_others(path: Path, keep: int) -> None:
    """Keep the last `keep` checkpoints up to `path`, which a run has written or goes on from.

    Later ones are damaged, since the run did not go on from them; they are removed, too, and never counted among those
    that stay.
    """
    newest = _newest_first(path.parents[1])
    place = newest.index(path)
    for old in newest[:place] + newest[place + keep :]:
        old.unlink()


def newest_checkpoint(out: Path) -> Path | None:
    """The whole checkpoint with the most steps; a later one that is damaged is passed over, which a message says."""
    for path in _newest_first(out):
        try:
            read_whole(path)
        except InputError as error:
            status(f"passed over: {error}")
        else:
            return path
    return None


def read_checkpoint(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint of the same run holds, as `save_checkpoint` wrote it; tensors are mapped from the file.

    The run may be made longer: no step depends on how many follow.

    Raises:
        InputError: it is not whole, is of a newer schema than this code knows, or is of a run of another identity.
    """
    content = read_whole(path)
    check_schema(content, SCHEMA_VERSION, path)
    with clear_content_errors(path):
        there, wanted = Recipe.completed(content["identity"]["recipe"]), identity["recipe"]
        if there["steps"] < wanted["steps"]:
            there["steps"] = wanted["steps"]
    check_same_run(path.parents[1], content["identity"] | {"recipe": there}, identity)
    return content


def write_tensors(content: Any, path: Path) -> None:
    """Write tensors and plain containers.

    Raises:
        InputError: the file cannot be written; what was there before stays.
    """
    # Through a file of Python's, since errors of torch's own do not say what went wrong.
    with whole_file(path) as partial, partial.open("wb") as file:
        torch.save(_alike(content), file)


def _alike(content: Any) -> Any:
    """The same content, of which equal texts are one object: pickle tells which are, and a resumed run has others."""
    if isinstance(content, Mapping):
        return {_alike(key): _alike(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_alike, content))
    return sys.intern(content) if type(content) is str else content


def _newest_first(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("[0-9]*.pt"), reverse=True)


def read_whole(path: Path) -> dict[str, Any]:
    """All that `write_tensors` wrote of a training: `schema_version`, `identity`, `training` and what else there is.

    `archive_sha256` stands for the whole file.

    Raises:
        InputError: the file is missing, cut short or of another kind, or a bit of it has changed.
    """
    try:
        sha256 = archive_sha256(path)  # a mapped file is compared with no checksum otherwise
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content["schema_version"], content["identity"]["recipe"]
        Range(0, STEPS.most).whole(content["training"]["step"], "step")
    except Exception as error:  # damaged bytes raise many kinds
        raise InputError(f"{path}: not a whole checkpoint of a run ({first_line(error)})") from None
    return {**content, "archive_sha256": sha256}
