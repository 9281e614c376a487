"""The tables of references that people are shown: all of the manifest, and the outcome of checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bench.quality.references.manifest import load_manifest
from bench.quality.references.pins import read_pins
from bench.quality.references.verify import Check
from bench.records import portable


def references_table(data_root: Path | None = None, root: Path | None = None) -> pd.DataFrame:
    """One row per reference of the manifest: what it is, where it comes from, and whether it is present."""
    pins = read_pins(root)
    rows = []
    for entry in load_manifest().values():
        pin = pins.get(entry.name)
        rows.append(
            {
                "name": entry.name,
                "what": entry.title,
                "split": entry.split,
                "images": entry.images,
                "pixels": str(entry.resolution or "native"),
                "preprocessing": entry.preprocessing,
                "extractor": entry.extractor,
                "source": entry.source,
                "present": entry.find(data_root, root),
                "checksum": "manifest" if entry.sha256 else f"first use {pin.first_used}" if pin else "at first use",
                "note": entry.note,
            }
        )
    return _table(rows)


def checks_table(checks: Iterable[Check]) -> pd.DataFrame:
    """One row per check: name, status, path and note."""
    return _table(dataclasses.asdict(check) for check in checks)


def _table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The rows with paths as they may be published: relative to the repository or the home directory."""
    return pd.DataFrame(
        {key: portable(str(value)) if isinstance(value, Path) or key == "note" else value for key, value in row.items()}
        for row in rows
    )
