"""Checksums of trained weights: what a file says of its content, and what is compared when it is read.

Files of safetensors carry none of their own, and a mapped file of PyTorch is used without a look at those of its
archive: a flipped bit would be another network.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dydit.errors import InputError

CHECKSUM = "content_sha256"
"""The name in a record under which the SHA-256 of all else stands; files of others have none."""


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) over names, dtypes, shapes and bytes of tensors, sorted by name: whatever their file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def content_sha256(state: Mapping[str, Tensor], record: Mapping[str, str]) -> str:
    """SHA-256 (hexadecimal) over tensors and the text record beside them."""
    text = json.dumps(dict(record), sort_keys=True)
    return hashlib.sha256(f"{tensors_sha256(state)}\n{text}".encode()).hexdigest()


def check_content(record: dict[str, Any], content: Callable[[], str], where: str, remedy: str) -> None:
    """Take the checksum out of a record, and compare it.

    Args:
        record: in which it stands as `CHECKSUM`, unless the file is of somebody else or of an earlier version.
        content: called for the SHA-256 of what is there, once the checksum is out of the record.
        where: the file, for the message.
        remedy: what the user can do about a damaged one.

    Raises:
        InputError: another checksum, or one whose name is damaged.
    """
    damaged = any(is_damaged(name, CHECKSUM) for name in record)
    checksum = record.pop(CHECKSUM, None)
    if damaged or (checksum is not None and checksum != content()):
        raise InputError(f"{where}: its content is not what its {CHECKSUM} says, so it has changed; {remedy}")


def is_damaged(name: str, known: str) -> bool:
    """Whether one character tells a name from a known one: a flipped bit would hide what stands under that."""
    return len(name) == len(known) and sum(one != other for one, other in zip(name, known, strict=True)) == 1


def archive_sha256(path: Path) -> str:
    """SHA-256 (hexadecimal) over names, sizes and CRC-32 of the members of a zip archive, each compared with its bytes.

    Raises:
        zipfile.BadZipFile: a member's bytes are not those of its CRC-32, or the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        if (changed := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{changed} has another CRC-32 than the archive says")
        members = [[member.filename, member.file_size, member.CRC] for member in archive.infolist()]
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()
