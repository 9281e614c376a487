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


def read_run(directory: Path) -> dict[str, Any]:
    """The record in `run.json`.

    Raises:
        InputError: no such file, not a run record, or one of a newer schema than this code knows.
    """
    path = directory / "run.json"
    try:
        record = read_object(path, "run the measurement again")
    except FileNotFoundError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a directory of results") from error
    version = record.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{path}: schema_version is {version!r}; it must be a whole number from 1")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this version reads; "
            "update the project"
        )
    return record
