"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

TOKEN = "[0-9a-f]" * 8
"""Pattern of the tokens in the names of files that are being written."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix: renamed to `path` on success, removed on failure.

    An OSError that names no file, as that of a full disk, is given the name of this one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path, uuid.uuid4().hex[:8])
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path, token: str) -> Path:
    """Where `path` lies while it is written; `token` tells the writers of one file apart."""
    return path.with_name(f".{path.stem}.{token}.partial{path.suffix}")
