"""`run.json`, the record of a run, and other JSON records, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dydit import InputError
from dydit.checkpoint.atomic import atomic_path
from dydit.checkpoint.json_objects import read_object

SCHEMA_VERSION = 1
"""Version of the files below; to be raised when a column or key changes its meaning."""


def write_json(record: Any, path: Path) -> Path:
    """Write a record as indented JSON; NaN and infinity, which JSON lacks, are refused (ValueError)."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return path


def write_run(record: Mapping[str, Any], directory: Path) -> Path:
    """Write `run.json`: the record of `bench.records.environment`, headed by the schema version."""
    version = {"schema_version": SCHEMA_VERSION}
    return write_json(version | dict(record) | version, directory / "run.json")


def read_run(directory: Path, *needed: str) -> dict[str, Any]:
    """The record in `run.json`.

    Args:
        directory: of the run.
        needed: keys that the caller reads.

    Raises:
        InputError: no such file, not a run record, one of a newer schema than this code knows, or without a key.
    """
    path = directory / "run.json"
    try:
        record = read_object(path, "run the measurement again", *needed)
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
