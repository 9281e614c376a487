"""The list of references in `reference_stats/manifest.toml`: what each is, and where its file may lie.

Where the manifest has no checksum of a file, its first use records one (`bench.quality.references.pins`). Nothing here
opens a reference: see `bench.quality.references.reference`.

A `root` is the directory of pins and of `statistics/` that are written (see `chosen_root`). What the project ships in
`ROOT` counts beside any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.data.preprocessing import NATIVE, PREPROCESSING
from bench.records import check_schema, from_table, installed, portable, read_toml, shipped_data, user_data
from dydit import InputError

ROOT = shipped_data()
"""Where the project keeps the manifest, the pins and the statistics that it ships."""
SCHEMA_VERSION = 1
"""Of the manifest and of the pins; to be raised when a key changes its meaning."""
KNOWN_PREPROCESSING = (NATIVE, PREPROCESSING)
"""What may be done to the pixels: nothing, or `bench.data.preprocessing.centre_crop` to the resolution."""
ADM_KEYS = ("mu", "sigma", "mu_s", "sigma_s", "arr_0")
"""Arrays of an ADM evaluator's file that the suite reads."""


@dataclass(frozen=True)
class Entry:
    """One reference of the manifest.

    `source` is the address of the ready-made file, or names the images that `bench stats build` makes it from.
    `resolution` is the side in pixels (None: that of the images), `images` the number of images behind the statistics,
    `keys` the arrays of a ready-made file, `sha256` the checksum of the .npz (None: recorded at first use).
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
        """Where the file may lie, in the order of looking: statistics of the root and of `ROOT`, then `data_root`."""
        directories = [directory / "statistics" for directory in (chosen_root(root), ROOT)]
        return [directory / self.file for directory in dict.fromkeys([*directories, *filter(None, [data_root])])]

    def find(self, data_root: Path | None = None, root: Path | None = None) -> Path | None:
        """The file where it lies; None where it is missing."""
        return next((path for path in self.places(data_root, root) if path.is_file()), None)

    def remedy(self) -> str:
        """How to get the file, as the end of a message."""
        if self.downloaded:
            place = portable(str(chosen_root() / "statistics"))
            return f"download {self.source} into {place}, or into a directory given as --data-root"
        return f"build it: python -m bench stats build {self.name}"


def chosen_root(root: Path | None = None) -> Path:
    """The directory of pins and statistics that are written: `root` where one is named.

    By default `ROOT` in a checkout; for an installed copy, which is not written to, the user's own directory.
    """
    return root or (user_data() if installed() else ROOT)


def load_manifest(path: Path | None = None) -> dict[str, Entry]:
    """The references by name, in the order of the file, `ROOT / "manifest.toml"` by default.

    Raises:
        InputError: no such file, not TOML, or a table with a key or value that no `Entry` has.
    """
    path = path or ROOT / "manifest.toml"
    tables = read_toml(path)
    check_schema(tables, SCHEMA_VERSION, path)
    tables.pop("schema_version")
    entries = {name: _entry(name, table, f"{path}, [{name}]") for name, table in tables.items()}
    files = [entry.file for entry in entries.values()]
    if repeated := sorted({file for file in files if files.count(file) > 1}):
        raise InputError(f"{path}: {repeated[0]} stands behind two references; keep one")
    return entries


def _entry(name: str, table: object, where: str) -> Entry:
    """A checked `Entry`; `where` opens the message of what is wrong."""
    entry = from_table(Entry, name, table, where)
    if entry.preprocessing not in KNOWN_PREPROCESSING:
        raise InputError(
            f"{where}: preprocessing = {entry.preprocessing!r}; known are {', '.join(KNOWN_PREPROCESSING)}"
        )
    if entry.preprocessing != NATIVE and entry.resolution is None:
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
