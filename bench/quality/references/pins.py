"""Checksums of references, recorded at first use; another file under the same name is refused afterwards."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import status
from bench.quality.references import manifest
from bench.quality.references.manifest import SCHEMA_VERSION, Entry
from bench.records import check_schema, file_sha256, read_json, take_directory, write_json
from dydit import InputError, first_line

PINS = "pins.json"
_LARGE = 2**29


class ChecksumError(InputError):
    """A file whose checksum is not the one that it must have; the message shows both."""


@dataclass(frozen=True)
class Pin:
    """What a file was at its first use: SHA-256 (hexadecimal), size in bytes, day (UTC, ISO 8601)."""

    sha256: str
    size: int
    first_used: str


def read_pins(root: Path | None = None) -> dict[str, Pin]:
    """The recorded checksums by reference name, those of the project and those of the root.

    Raises:
        InputError: a `pins.json` is not what `pin` writes.
    """
    return _pins_in(manifest.ROOT) | _pins_in(manifest.chosen_root(root))


def known_sha256(entry: Entry, root: Path | None = None) -> str | None:
    """The checksum that the file must have: the manifest's, else the recorded one; None before the first use."""
    recorded = read_pins(root).get(entry.name)
    return entry.sha256 or (recorded.sha256 if recorded is not None else None)


def digest(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file; a message on standard error says so where the file is large."""
    size = path.stat().st_size
    if size > _LARGE:
        status(f"{path.name}: taking the checksum of {size / 2**30:.1f} GiB")
    return file_sha256(path)


def compare(entry: Entry, path: Path, sha256: str, root: Path | None = None) -> None:
    """Compare `sha256`, the checksum of the file at `path`, with the known one, before the file is opened.

    Raises:
        ChecksumError: another one is known; both are shown.
    """
    known = known_sha256(entry, root)
    if known is not None and known != sha256:
        source = "the manifest has" if entry.sha256 is not None else "pins.json recorded at first use"
        raise ChecksumError(
            f"{entry.name}: {path} has SHA-256 {sha256}, {source} {known}; "
            "use the file of that checksum, or correct the entry if the change is meant"
        )


def pin(entry: Entry, path: Path, sha256: str, root: Path | None = None) -> None:
    """Record the checksum of a file that was checked, unless one is known.

    Where the root cannot be written, a message on standard error says so; results carry the checksum all the same.
    """
    if known_sha256(entry, root) is None:
        _record(entry, path, sha256, manifest.chosen_root(root))


def renew(entry: Entry, path: Path, sha256: str, root: Path | None = None) -> None:
    """Record the checksum of a reference that was built again on purpose: its last digits differ between machines."""
    if entry.sha256 is None:
        _record(entry, path, sha256, manifest.chosen_root(root))


def _record(entry: Entry, path: Path, sha256: str, directory: Path) -> None:
    first_use = Pin(sha256, path.stat().st_size, datetime.now(UTC).date().isoformat())
    _pins_in(directory)  # refuses a damaged record
    try:
        with take_directory(directory, [PINS], PINS, wait=True):
            pins = _pins_in(directory) | {entry.name: first_use}
            record = {
                "schema_version": SCHEMA_VERSION,
                "pins": {name: dataclasses.asdict(pins[name]) for name in sorted(pins)},
            }
            write_json(record, directory / PINS)
    except (OSError, InputError) as error:
        status(f"{entry.name}: its checksum is not recorded, {directory} cannot be written ({first_line(error)})")


def _pins_in(root: Path) -> dict[str, Pin]:
    path = root / PINS
    try:
        record = read_json(path, "restore it from the repository")
        check_schema(record, SCHEMA_VERSION, path)
        return {name: Pin(**fields) for name, fields in record["pins"].items()}
    except FileNotFoundError:
        return {}
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a record of checksums ({error}); restore it from the repository") from error
