"""The list of reference statistics in `reference_stats/manifest.toml`, and the checksums that pin them.

Where the manifest knows no checksum of a file, its first use records one in `pins.json`; from then on another file
under that name is refused. Nothing here opens statistics: see `bench.reference`.

A `root` is the directory of pins and of `statistics/`. What the repository keeps in `ROOT` counts beside any other.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import environment, pictures, results
from bench.features import file_sha256
from bench.progress import status
from dydit.errors import InputError

ROOT = environment.ROOT / "reference_stats"
"""Where the repository keeps the manifest, the pins and the built statistics."""
SCHEMA_VERSION = 1
"""Of the manifest and of the pins; to be raised when a key changes its meaning."""
PREPROCESSING = (pictures.NATIVE, pictures.PREPROCESSING)
"""What may be done to the pixels: nothing, or `pictures.centre_crop` to the resolution."""
ADM_KEYS = ("mu", "sigma", "mu_s", "sigma_s", "arr_0")
"""Arrays of an ADM evaluator's file that the suite reads."""
_LARGE = 2**29


class ChecksumError(InputError):
    """A file whose checksum is not the one that it must have; the message shows both."""


@dataclass(frozen=True)
class Entry:
    """One reference of the manifest.

    `source` is the address of the ready-made file, or names the images that `bench stats build` makes it from.
    `resolution` is the side in pixels (None: as the images come), `images` the count behind the statistics, `keys` the
    arrays of a ready-made file, `sha256` the checksum of the .npz (None: pinned at first use).
    """

    name: str
    title: str
    dataset: str
    split: str
    source: str
    preprocessing: str
    images: int
    extractor: str
    resolution: int | None = None
    keys: tuple[str, ...] = ()
    sha256: str | None = None
    note: str = ""

    @property
    def downloaded(self) -> bool:
        """Whether the file comes ready made; the others are built here."""
        return self.source.startswith("https://") and self.source.endswith(".npz")

    @property
    def file(self) -> str:
        """Name of the .npz file."""
        return self.source.rsplit("/", 1)[1] if self.downloaded else f"{self.name}.npz"

    def places(self, data_root: Path | None = None, root: Path | None = None) -> list[Path]:
        """Where the file may lie, in the order of looking: statistics of `root` and of `ROOT`, then `data_root`."""
        directories = [directory / "statistics" for directory in (root, ROOT) if directory is not None]
        return [directory / self.file for directory in dict.fromkeys([*directories, *filter(None, [data_root])])]

    def find(self, data_root: Path | None = None, root: Path | None = None) -> Path | None:
        """The file where it lies; None where it is missing."""
        return next((path for path in self.places(data_root, root) if path.is_file()), None)

    def remedy(self) -> str:
        """How to get the file, as the end of a message."""
        if self.downloaded:
            place = environment.portable(str(ROOT / "statistics"))
            return f"download {self.source} into {place}, or into a directory given as --data-root"
        return f"build it: python -m bench stats build {self.name}"


def load(path: Path | None = None) -> dict[str, Entry]:
    """The references by name, in the order of the file, `ROOT / "manifest.toml"` by default.

    Raises:
        InputError: no such file, not TOML, or a table with a key or value that no `Entry` has.
    """
    path = path or ROOT / "manifest.toml"
    tables = results.read_toml(path)
    version = tables.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema_version is {version!r}; this version of the project reads {SCHEMA_VERSION}")
    entries = {name: _entry(f"{path}, [{name}]", name, table) for name, table in tables.items()}
    files = [entry.file for entry in entries.values()]
    if repeated := sorted({file for file in files if files.count(file) > 1}):
        raise InputError(f"{path}: {repeated[0]} stands behind two references; keep one")
    return entries


_TYPES: dict[str, type] = {
    "title": str,
    "dataset": str,
    "split": str,
    "source": str,
    "preprocessing": str,
    "images": int,
    "extractor": str,
    "resolution": int,
    "keys": list,
    "sha256": str,
    "note": str,
}


def _entry(where: str, name: str, table: Any) -> Entry:
    """A checked `Entry`; `where` opens the message of what is wrong."""
    if not isinstance(table, dict):
        raise InputError(f"{where}: {table!r} is no table; write the reference as [{name}]")
    if unknown := sorted(table.keys() - _TYPES.keys()):
        raise InputError(f"{where}: unknown key {unknown[0]}; a reference has {', '.join(_TYPES)}")
    for key, value in table.items():
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise InputError(f"{where}: {key} = {value!r}; it must be of type {_TYPES[key].__name__}")
    required = [field.name for field in dataclasses.fields(Entry) if field.default is dataclasses.MISSING][1:]
    if missing := [key for key in required if not table.get(key)]:
        raise InputError(f"{where}: {missing[0]} is missing or empty; every reference has {', '.join(required)}")
    entry = Entry(name=name, **(table | {"keys": tuple(table.get("keys", ()))}))
    if entry.preprocessing not in PREPROCESSING:
        raise InputError(f"{where}: preprocessing = {entry.preprocessing!r}; known are {', '.join(PREPROCESSING)}")
    if entry.preprocessing != pictures.NATIVE and entry.resolution is None:
        raise InputError(f"{where}: resolution is missing; {entry.preprocessing} needs one")
    if entry.images < 2 or (entry.resolution is not None and entry.resolution < 1):
        raise InputError(
            f"{where}: images = {entry.images}, resolution = {entry.resolution}; they are at least 2 and 1"
        )
    if entry.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", entry.sha256):
        raise InputError(f"{where}: sha256 = {entry.sha256!r}; it must be 64 lower-case hexadecimal digits")
    if not set(entry.keys) <= set(ADM_KEYS) or bool(entry.keys) != entry.downloaded:
        raise InputError(f"{where}: keys = {list(entry.keys)}; a ready-made file has some of {', '.join(ADM_KEYS)}")
    return entry


@dataclass(frozen=True)
class Pin:
    """What a file was at its first use: SHA-256 (hexadecimal), size in bytes, day (UTC, ISO 8601)."""

    sha256: str
    size: int
    first_used: str


def read_pins(root: Path | None = None) -> dict[str, Pin]:
    """The recorded checksums by reference name, those of the repository and those of `root`.

    Raises:
        InputError: a `pins.json` is not what `pin` writes.
    """
    return _pins_in(ROOT) | (_pins_in(root) if root is not None else {})


def known_sha256(entry: Entry, root: Path | None = None) -> str | None:
    """The checksum that the file must have: the manifest's, else the recorded one; None before the first use."""
    recorded = read_pins(root).get(entry.name)
    return entry.sha256 or (recorded.sha256 if recorded is not None else None)


def digest(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file; a large one is announced on standard error."""
    size = path.stat().st_size
    if size > _LARGE:
        status(f"{path.name}: taking the checksum of {size / 2**30:.1f} GiB")
    return file_sha256(path)


def compare(entry: Entry, path: Path, sha256: str, root: Path | None = None) -> None:
    """Hold `sha256`, that of the file at `path`, against the known one; to be called before the file is opened.

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
    """Record the checksum of a file that proved whole, unless one is known.

    A root that cannot be written is told on standard error: what is measured still carries the checksum.
    """
    if known_sha256(entry, root) is None:
        _record(entry, path, sha256, root or ROOT)


def renew(entry: Entry, path: Path, sha256: str, root: Path | None = None) -> None:
    """Record the checksum of statistics that were built again on purpose: the last digits differ between machines."""
    if entry.sha256 is None:
        _record(entry, path, sha256, root or ROOT)


def _record(entry: Entry, path: Path, sha256: str, directory: Path) -> None:
    first_use = Pin(sha256, path.stat().st_size, datetime.now(UTC).date().isoformat())
    pins = _pins_in(directory) | {entry.name: first_use}
    record = {
        "schema_version": SCHEMA_VERSION,
        "pins": {name: dataclasses.asdict(pins[name]) for name in sorted(pins)},
    }
    try:
        results.write_json(record, directory / "pins.json")
    except OSError as error:
        status(f"{entry.name}: its checksum is not recorded, {directory} cannot be written ({error.strerror})")


def _pins_in(root: Path) -> dict[str, Pin]:
    path = root / "pins.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {record['schema_version']}")
        return {name: Pin(**fields) for name, fields in record["pins"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a record of checksums ({error}); restore it from the repository") from error
