"""From the name or path of a reference to its statistics, its checksum verified."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bench.quality.features import extractors
from bench.quality.references import manifest, pins
from bench.quality.references.manifest import Entry
from bench.quality.references.reference import Reference, read_reference
from dydit import InputError

_RECORDED = ("dataset", "split", "preprocessing")
"""Facts that a record and the manifest both have."""


def resolve_reference(name_or_path: str | Path, data_root: Path | None = None, root: Path | None = None) -> Reference:
    """A reference by its name in the manifest, or from a file.

    A name is looked for in `root` (by default `manifest.chosen_root()`), among the shipped statistics and in
    `data_root`. Its checksum is compared with the known one, or recorded at first use. A file with the name of an ADM
    evaluator's is that reference.

    Raises:
        ChecksumError: another file than the one known by this name; both checksums are shown.
        InputError: unknown name (the known ones are listed), missing file (with the remedy), or an unusable one.
    """
    entries = manifest.load_manifest()
    entry = entries.get(str(name_or_path))
    if entry is not None:
        path = entry.find(data_root, root)
        if path is None:
            places = " nor in ".join(str(place.parent) for place in entry.places(data_root, root))
            raise InputError(f"reference {entry.name}: {entry.file} is not in {places}; {entry.remedy()}")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(f"reference {path}: no such file, and no name of the manifest ({', '.join(entries)})")
        entry = next((known for known in entries.values() if known.downloaded and known.file == path.name), None)
        if entry is None:
            return read_reference(path)
    reference = open_entry(entry, path, root)
    pins.pin(entry, path, reference.record["sha256"], root)
    return reference


def open_entry(entry: Entry, path: Path, root: Path | None = None) -> Reference:
    """The reference of a manifest entry from its file, checked; its checksum is compared, but not recorded.

    The manifest completes what a file of the ADM evaluator does not say.

    Raises:
        ChecksumError: another checksum than the known one.
        InputError: a file that `read_reference` refuses, or that is not what the manifest says.
    """
    sha256 = pins.digest(path)
    pins.compare(entry, path, sha256, root)
    reference = read_reference(path, sha256)
    if entry.downloaded:
        reference = _completed(entry, path, reference, sha256)
    _check_listed(entry, path, reference)
    return reference


def _size(entry: Entry) -> tuple[int, int] | None:
    return None if entry.resolution is None else (entry.resolution, entry.resolution)


def _completed(entry: Entry, path: Path, reference: Reference, sha256: str) -> Reference:
    """A ready-made reference with what its file does not say.

    Raises:
        InputError: an array is missing.
    """
    present = {"mu", "sigma"} | ({"mu_s", "sigma_s"} if reference.spatial else set())
    present |= {"arr_0"} if reference.images is not None else set()
    if missing := [key for key in entry.keys if key not in present]:
        raise InputError(f"{path}: array {missing[0]} is missing; {entry.name} has {', '.join(entry.keys)}")
    record = {key: getattr(entry, key) for key in _RECORDED}
    return dataclasses.replace(
        reference,
        name=entry.name,
        extractor=entry.extractor,
        size=reference.size or _size(entry),
        pool=dataclasses.replace(reference.pool, count=entry.images),
        spatial=reference.spatial and dataclasses.replace(reference.spatial, count=entry.images),
        record=record | {"source": entry.source, "sha256": sha256},
    )


def _check_listed(entry: Entry, path: Path, reference: Reference) -> None:
    """Refuse a reference that is not what the manifest says, or that its extractor cannot have made.

    Raises:
        InputError: the first fact that differs, with both values.
    """
    own = {key: reference.record[key] for key in _RECORDED}
    own |= {"extractor": reference.extractor, "images": reference.pool.count, "resolution": reference.size}
    listed = {key: getattr(entry, key) for key in (*_RECORDED, "extractor", "images")}
    listed["resolution"] = _size(entry) or reference.size
    for key, value in listed.items():
        if own[key] != value:
            raise InputError(f"{path}: {key} {own[key]}, {entry.name} in the manifest has {value}; get another file")
    spec = extractors.extractor(entry.extractor)
    if misfit := reference.misfit(spec):
        raise InputError(f"{path}: {misfit}; get another file")
