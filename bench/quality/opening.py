"""Samples and references opened from what a command line names: runs, files, folders, data sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bench.data import shards, sources
from bench.data.image_set import Images
from bench.quality.references import manifest
from bench.quality.references.reference import Reference
from bench.quality.references.resolve import resolve_reference
from bench.records import array_names, portable
from dydit import InputError


def open_samples(source: str, data_root: Path | None = None, size: tuple[int, int] | None = None) -> Images:
    """The images that a text names.

    Args:
        source: a data set by name, or `NAME/SPLIT`; otherwise as `bench.data.sources.open_images` takes it.
        data_root: where local copies of data sets lie.
        size: (H, W) of what they are compared with; a data set without a native resolution is cropped to it.

    Raises:
        InputError: nothing there, or images that cannot be used.
    """
    from bench.data.sets.catalogue import DATASETS

    name, _, split = source.partition("/")
    if name not in DATASETS:
        return sources.open_images(source)
    height, width = size or (0, 1)
    side = height if height == width and not DATASETS[name].native else None
    return sources.open_images(name, data_root=data_root, split=split or None, resolution=side)


def open_reference(source: str, data_root: Path | None, size: tuple[int, int]) -> Images | Reference:
    """The reference that a text names.

    Args:
        source: a name in the manifest of references; a .npz with statistics (`mu`, `sigma`); or images, as
            `open_samples` takes them. A name of both a reference and a data set means the reference where its file is
            present, else the data set.
        data_root: where files of references and local copies of data sets lie.
        size: (H, W) of the samples.

    Raises:
        InputError: nothing there, or a file that cannot be used.
    """
    from bench.data.sets.catalogue import DATASETS

    entry, path = manifest.load_manifest().get(source), Path(source)
    if entry is not None and (source not in DATASETS or entry.find(data_root) is not None):
        return resolve_reference(source, data_root)
    if "mu" in array_names(path):
        return resolve_reference(path, data_root)
    if not path.exists() and source.partition("/")[0] not in DATASETS:
        known = ", ".join(dict.fromkeys([*manifest.load_manifest(), *DATASETS]))
        raise InputError(f"reference {source}: no such file or folder, and none of the names: {known}")
    return open_samples(source, data_root, size)


def samples_record(source: str, samples: Images) -> dict[str, Any]:
    """What a run's record says of its samples, fit for JSON; of generated ones also the manifest of their run."""
    facts = {"source": portable(source), "count": len(samples), "size": list(samples.size)}
    if shards.is_run(Path(source)):
        facts["manifest"] = dataclasses.asdict(shards.read_manifest(Path(source)))
    return facts


def reference_record(reference: Images | Reference) -> dict[str, Any]:
    """What a run's record says of its reference: its name, and the record of statistics."""
    return {"name": reference.name} | (reference.record if isinstance(reference, Reference) else {})
