"""`run.json`, the record of a run, and other JSON records: written whole or not at all, each with its checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.records.checksums import file_sha256
from dydit import InputError
from dydit.checkpoint.atomic import atomic_path
from dydit.checkpoint.checksums import CHECKSUM, check_content
from dydit.checkpoint.json_objects import read_object

RUN = "run.json"
"""The record of a run, in its directory."""
SCHEMA_VERSION = 1
"""Version of the files below; to be raised when a column or key changes its meaning."""


def write_json(record: Mapping[str, Any], path: Path) -> Path:
    """Write a record as indented JSON, with its checksum; NaN and infinity, which JSON lacks, are refused (ValueError).

    What `read_json` gives back is `record`, with lists in place of tuples and texts in place of other keys.
    """
    written = {**record, CHECKSUM: _content_sha256(record)}
    text = json.dumps(written, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return path


def read_json(path: Path, remedy: str, *needed: str) -> dict[str, Any]:
    """A record as `write_json` left it, compared with its checksum where it has one.

    Args:
        path: the file.
        remedy: what the user can do about a damaged one.
        needed: keys that the caller reads.

    Raises:
        FileNotFoundError: no such file; what that means differs from caller to caller.
        InputError: a file that cannot be read, holds no JSON object, lacks a key, or has changed since it was written.
    """
    record = read_object(path, remedy, *needed)
    check_content(record, lambda: _content_sha256(record), str(path), remedy)
    return record


def read_kept(path: Path, identity: Mapping[str, Any], files: Iterable[str] = ()) -> dict[str, Any] | None:
    """What an earlier run kept in a record under `identity`; None where there is no such record, or it has changed.

    Args:
        path: of the record, whose `files` holds the SHA-256 of files beside it.
        identity: decides what is kept; fit for JSON.
        files: names that must be among them, each the file that it was.
    """
    try:
        record = read_json(path, "")
    except (FileNotFoundError, InputError):
        return None
    sums = record.get("files", {})
    same = all((path.parent / name).is_file() and file_sha256(path.parent / name) == sums.get(name) for name in files)
    return record if same and record.get("identity") == identity else None


def _content_sha256(record: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of a record as it is read back, whatever the order of its keys."""
    content = json.loads(json.dumps(record, allow_nan=False))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_run(record: Mapping[str, Any], directory: Path) -> Path:
    """Write `run.json`: the record of `bench.records.environment`, headed by the schema version."""
    version = {"schema_version": SCHEMA_VERSION}
    return write_json(version | dict(record) | version, directory / RUN)


def read_run(directory: Path, *needed: str) -> dict[str, Any]:
    """The record in `run.json`.

    Args:
        directory: of the run.
        needed: keys that the caller reads.

    Raises:
        InputError: no such file, no run record, one that has changed, of a newer schema than this code knows, or
            without a key.
    """
    path = directory / RUN
    try:
        record = read_json(path, "run the measurement again", *needed)
    except FileNotFoundError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a directory of results") from error
    check_schema(record, SCHEMA_VERSION, path)
    return record


def check_schema(record: Mapping[str, Any], newest: int, path: Path) -> None:
    """Refuse a record of another schema than those that this code reads.

    Args:
        record: with its `schema_version`.
        newest: version that is read.
        path: of the file, for the message.

    Raises:
        InputError: the version is no whole number from 1, or newer.
    """
    version = record.get("schema_version")
    if type(version) is not int or version < 1:
        raise InputError(f"{path}: schema_version is {str(version)[:20]!r}; it must be a whole number from 1")
    if version > newest:
        raise InputError(
            f"{path}: schema_version {str(version)[:20]} is newer than {newest}, the newest that this version reads; "
            "update the project"
        )


def check_recorded(path: Path) -> None:
    """Compare a file of a run with its checksum in the record beside it, where there is one of it.

    Raises:
        InputError: the file has changed since the run, or the record is damaged.
    """
    if not (path.parent / RUN).is_file():
        return
    sums = read_run(path.parent).get("files", {})
    known = sums.get(path.name) if isinstance(sums, dict) else None
    if known is not None and known != file_sha256(path):
        raise InputError(f"{path}: is not the file that {RUN} is the record of; run the measurement again")
