"""SHA-256 checksums of files and of tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dydit import InputError
from dydit.checkpoint.checksums import tensors_sha256

__all__ = ["check_listed", "file_sha256", "tensors_sha256"]
LIST = "SHA256SUMS"
"""Name of the file in which a folder of the project lists the checksums of its files, as `sha256sum` writes it."""


def file_sha256(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_listed(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file; where its folder lists the checksums of its files, it must be the one there.

    Raises:
        InputError: the list has another checksum of it.
    """
    own, names = file_sha256(path), path.parent / LIST
    lines = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
    listed = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    if listed.get(path.name, own) != own:
        raise InputError(
            f"{path}: SHA-256 {own}, {LIST} beside it has {listed[path.name]}; restore the file from the repository"
        )
    return own
