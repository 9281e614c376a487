"""Whether the reference statistics that are present are what they should be: `bench stats verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bench.machine import track
from bench.quality.features import extractors
from bench.quality.metrics.moments import Statistics
from bench.quality.references import pins
from bench.quality.references.manifest import Entry, load_manifest
from bench.quality.references.pins import ChecksumError
from bench.quality.references.reference import ROWS, Reference
from bench.quality.references.resolve import open_entry
from bench.records import file_sha256
from dydit import InputError

ROUNDING = 1e-6
"""A negative eigenvalue up to this share of the largest is rounding (files in float32 included)."""

Status = Literal["ok", "missing", "wrong checksum", "damaged"]


@dataclass(frozen=True)
class Check:
    """What was found out about one reference; `path` is None where it is missing, `note` one line."""

    name: str
    status: Status
    path: Path | None
    note: str

    @property
    def broken(self) -> bool:
        """Whether there is a file, and it cannot be used."""
        return self.status not in ("ok", "missing")


def verify_references(
    names: Sequence[str] = (), data_root: Path | None = None, root: Path | None = None
) -> list[Check]:
    """Check the references of these names, or all of the manifest; see `verify_reference`.

    Raises:
        InputError: a name that the manifest does not have; before any check.
    """
    entries = load_manifest()
    if unknown := [name for name in names if name not in entries]:
        raise InputError(f"{unknown[0]}: no such reference; the manifest has {', '.join(entries)}")
    wanted = [entries[name] for name in names or entries]
    return [verify_reference(entry, data_root, root) for entry in track(wanted, "verifying")]


def verify_reference(entry: Entry, data_root: Path | None = None, root: Path | None = None) -> Check:
    """Check one reference: checksum, whole arrays, what the manifest says, weights, and a covariance that can be one.

    A file that passes and has no known checksum is pinned. It takes seconds: eigenvalues of matrices of side 2,048.
    """
    path = entry.find(data_root, root)
    if path is None:
        return Check(entry.name, "missing", None, entry.remedy())
    try:
        opened = open_entry(entry, path, root)
        _check_weights(path, opened)
        for label, gaussian in (("sigma", opened.pool), ("sigma_s", opened.spatial)):
            if gaussian is not None:
                _check_covariance(f"{path}: {label}", gaussian)
        _check_rows(path, opened)
    except ChecksumError as error:
        return Check(entry.name, "wrong checksum", path, str(error))
    except InputError as error:
        return Check(entry.name, "damaged", path, str(error))
    sha256 = opened.record["sha256"]
    known = pins.known_sha256(entry, root)
    pins.pin(entry, path, sha256, root)
    return Check(entry.name, "ok", path, "" if known is not None else f"first use: SHA-256 {sha256}")


def _check_weights(path: Path, opened: Reference) -> None:
    """Statistics of other weights than the extractor's are of no use; ready-made files do not say theirs."""
    spec = extractors.extractor(str(opened.extractor))
    made_with, default = opened.record.get("weights_sha256"), spec.default_weights()
    expected = spec.sha256 or (file_sha256(default) if default.is_file() else None)
    if None not in (made_with, expected) and made_with != expected:
        raise ChecksumError(
            f"{path}: made with weights of SHA-256 {made_with}, those of {spec.name} have {expected}; build it again"
        )


def _check_covariance(where: str, gaussian: Statistics) -> None:
    """Positive semidefinite to rounding; `Statistics` is symmetric already.

    Raises:
        InputError: otherwise, with the numbers.
    """
    lowest, highest = np.linalg.eigvalsh(gaussian.covariance)[[0, -1]]
    if lowest < -ROUNDING * highest:
        raise InputError(f"{where} has the eigenvalue {lowest:.3g} below zero; get or build it again")


def _check_rows(path: Path, opened: Reference) -> None:
    """As many rows as `reference.build` keeps.

    Raises:
        InputError: another number.
    """
    expected = min(opened.pool.count, ROWS)
    if opened.rows is not None and len(opened.rows) != expected:
        raise InputError(f"{path}: {len(opened.rows)} rows in features, expected {expected}; build it again")
