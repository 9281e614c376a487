"""Checks of the references that are present: checksums, contents, and covariances that are possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.machine import track
from bench.quality.features import extractors
from bench.quality.references import pins
from bench.quality.references.manifest import Entry, load_manifest
from bench.quality.references.pins import ChecksumError
from bench.quality.references.reference import KEPT_ROWS, Reference
from bench.quality.references.resolve import open_entry
from bench.records import file_sha256
from dydit import InputError

Status = Literal["ok", "missing", "wrong checksum", "damaged"]


@dataclass(frozen=True)
class Check:
    """The result for one reference; `path` is None where it is missing, `note` is one line."""

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
    """Check one reference: checksum, complete arrays, possible covariances, agreement with the manifest, and weights.

    The checksum of a file that passes is recorded where none was known.
    """
    path = entry.find(data_root, root)
    if path is None:
        return Check(entry.name, "missing", None, entry.remedy())
    try:
        reference = open_entry(entry, path, root)
        _check_weights(path, reference)
        _check_rows(path, reference)
    except ChecksumError as error:
        return Check(entry.name, "wrong checksum", path, str(error))
    except InputError as error:
        return Check(entry.name, "damaged", path, str(error))
    sha256 = reference.record["sha256"]
    known = pins.known_sha256(entry, root)
    pins.pin(entry, path, sha256, root)
    return Check(entry.name, "ok", path, "" if known is not None else f"first use: SHA-256 {sha256}")


def _check_weights(path: Path, reference: Reference) -> None:
    """Refuse statistics that were made with other weights than the extractor's; ready-made files do not name theirs.

    Raises:
        ChecksumError: other weights; both checksums are shown.
    """
    spec = extractors.extractor(str(reference.extractor))
    made_with, default = reference.record.get("weights_sha256"), spec.default_weights()
    expected = spec.sha256 or (file_sha256(default) if default.is_file() else None)
    if None not in (made_with, expected) and made_with != expected:
        raise ChecksumError(
            f"{path}: made with weights of SHA-256 {made_with}, those of {spec.name} have {expected}; build it again"
        )


def _check_rows(path: Path, reference: Reference) -> None:
    """Refuse a file with another number of rows than `build_reference` keeps.

    Raises:
        InputError: another number; both are shown.
    """
    expected = min(reference.pool.count, KEPT_ROWS)
    if reference.rows is not None and len(reference.rows) != expected:
        raise InputError(f"{path}: {len(reference.rows)} rows in features, expected {expected}; build it again")
