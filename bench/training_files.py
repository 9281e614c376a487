"""Checkpoints of a training on disk: written whole or not at all, and read without running code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.progress import status
from dydit.errors import InputError, first_line
from dydit.files import atomic_path

SCHEMA_VERSION = 1
"""Version of the checkpoints; to be raised when a field changes its meaning."""


def newest(out: Path) -> Path | None:
    """The checkpoint of the most steps that is whole; one that is cut short is told and passed over."""
    for path in sorted((out / "checkpoints").glob("[0-9]*.pt"), reverse=True):
        try:
            _load(path)
        except InputError as error:
            status(f"passed over: {error}")
        else:
            return path
    return None


def read(path: Path) -> dict[str, Any]:
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


def write(path: Path, content: Any) -> None:
    """Write tensors and plain containers, whole or not at all.

    Raises:
        InputError: the file cannot be written; what was there before stays.
    """
    # Through a file of Python's: torch's own does not say what is wrong with it.
    with writing(path), atomic_path(path) as partial, partial.open("wb") as file:
        torch.save(content, file)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What writes `path`, and fails in one line where the machine refuses, as a full disk does.

    Raises:
        InputError: an OSError was behind what went wrong.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch raises the second about the first
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise InputError(
            f"{path}: cannot be written ({cause.strerror or cause}); the files before it are whole: mend that and "
            "repeat the run, which goes on"
        ) from None
