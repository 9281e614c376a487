"""Reference statistics made on request: of a reference of the manifest, of own images, or of parts built apart."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data import sources
from bench.data.image_set import Images, StreamedImages, part
from bench.machine import status
from bench.options import DataOptions, ExtractorOptions, option
from bench.quality.features import extractors
from bench.quality.references import manifest, pins
from bench.quality.references.build import build_reference, merge_references
from bench.quality.references.manifest import Entry
from bench.quality.references.reference import Reference, read_reference, write_reference
from bench.records import environment_record, file_sha256, portable, prepare_output
from dydit import InputError

EXTRACTOR = "inception-v3-compat"
"""For images that the manifest does not know."""
_FILE_NAME = r"\w[\w.-]*"


@dataclass(frozen=True, kw_only=True)
class RootOptions(DataOptions):
    """Where statistics and pins lie."""

    root: Path | None = option(None, metavar="DIR", help="of pins and statistics, if not reference_stats")


@dataclass(frozen=True, kw_only=True)
class MadeOptions(RootOptions):
    """Where statistics are written."""

    out: Path | None = option(None, metavar="DIR", help="where to write; statistics/ of the root by default")


@dataclass(frozen=True, kw_only=True)
class BuildOptions(ExtractorOptions, MadeOptions):
    """What to build statistics of."""

    source: str = option(
        positional=True, metavar="NAME", help="of the manifest; or images: a folder, an .npz, a data set"
    )
    name: str | None = option(None, metavar="NAME", help="of the statistics; needed for a folder or file")
    split: str | None = option(None, metavar="SPLIT", help="of the data set, if not the manifest's")
    resolution: int | None = option(None, metavar="PIXELS", help="ADM's centre crop, if not the manifest's")
    extractor: str | None = option(None, metavar="NAME", help=f"the manifest's by default, {EXTRACTOR} for own images")
    part: str | None = option(None, metavar="K/N", help="of the K-th of N parts alone, to share the work; then `merge`")
    streaming: bool = option(
        False, help="read a data set as it comes from the hub or from parquet files, with no copy of it on the disk"
    )


@dataclass(frozen=True, kw_only=True)
class MergeOptions(MadeOptions):
    """Which parts to join."""

    name: str = option(positional=True, metavar="NAME", help="of the whole")
    parts: Sequence[Path] = option(positional=True, metavar="FILE", help=".npz of a part, in the order of the images")


def make_statistics(options: BuildOptions) -> Path:
    """Build statistics, and pin those that a reference of the manifest stands for; the file written.

    Raises:
        InputError: a reference that comes ready made, a name or file that is taken, or images or weights that cannot be
            used; before any long work.
    """
    entry = _entry(options.source)
    name = _name(options, entry)
    path = _target(options, name)
    extractor = options.extractor or (entry.extractor if entry else EXTRACTOR)
    weights = extractors.extractor(extractor).weights(options.extractor_weights, options.weights_sha256)
    images, record = _images(options, entry)
    built = build_reference(images, extractor, weights, name=name, record=record)
    _write(built, path, entry if entry is not None and name == entry.name else None, options)
    status(f"{path}: {built.pool.count} images, {built.pool.dimensions} features")
    return path


def merge_parts(options: MergeOptions) -> Path:
    """Join the statistics of all parts of a data set, and pin them as `make_statistics` does; the file written.

    Raises:
        InputError: a name or file that is taken, or parts that are not those of the whole.
    """
    entry = _entry(options.name)
    if not re.fullmatch(_FILE_NAME, options.name):
        raise InputError(f"{options.name}: no file name; choose another")
    path = _target(options, options.name)
    whole = merge_references([read_reference(file) for file in options.parts])
    if entry is not None and whole.pool.count != entry.images:
        raise InputError(f"{entry.name}: {whole.pool.count} images, the manifest says {entry.images}; give every part")
    _write(dataclasses.replace(whole, name=options.name), path, entry, options)
    status(f"{path}: {whole.pool.count} images of {len(options.parts)} parts")
    return path


def _entry(name: str) -> Entry | None:
    """The reference of the manifest that is to be made, None for own images.

    Raises:
        InputError: a reference that is not made here.
    """
    entry = manifest.load_manifest().get(name)
    if entry is not None and entry.downloaded:
        raise InputError(f"{entry.name}: it comes ready made; {entry.remedy()}, then run stats verify {entry.name}")
    return entry


def _write(reference: Reference, path: Path, entry: Entry | None, options: MadeOptions) -> None:
    """Write statistics; those of a reference of the manifest are pinned where they lie at their usual place."""
    write_reference(path, reference)
    if entry is not None and options.out is None:
        pins.renew(entry, path, file_sha256(path), options.root)


def _target(options: MadeOptions, name: str) -> Path:
    """The file to write, in a directory that can be written.

    Raises:
        InputError: it exists already, or the directory cannot be used.
    """
    directory = prepare_output(options.out or (options.root or manifest.ROOT) / "statistics")
    path = directory / f"{name}.npz"
    if path.exists():
        raise InputError(f"{path}: exists already; remove it to build it again, or write elsewhere with --out DIR")
    return path


def _part(text: str) -> tuple[int, int]:
    """K and N of `K/N`."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise InputError(f"--part {text}: give it as K/N, such as 3/8")
    return int(match[1]), int(match[2])


def _name(options: BuildOptions, entry: Entry | None) -> str:
    """What to call the statistics: by default the manifest's name, lengthened by what departs from the manifest.

    Raises:
        InputError: no name, one that is no file name, or one that the manifest has for something else.
    """
    usual = None
    if entry is not None:
        chosen = [(options.split, entry.split), (options.resolution, entry.resolution)]
        chosen += [(options.extractor, entry.extractor), (options.weights_sha256, None)]
        usual = "-".join([entry.name, *(str(own)[:20] for own, listed in chosen if own not in (None, listed))])
    name = options.name or usual
    if name is None:
        raise InputError(f"{options.source}: not in the manifest; say what to call the statistics with --name NAME")
    if not re.fullmatch(_FILE_NAME, name) or (name != usual and name in manifest.load_manifest()):
        raise InputError(f"--name {name}: no file name, or the manifest's for other statistics; choose another")
    if options.part is None:
        return name
    number, of = _part(options.part)
    return f"{name}.{number}of{of}"


def _images(options: BuildOptions, entry: Entry | None) -> tuple[Images | StreamedImages, dict[str, Any]]:
    """The images to build from, and where they come from, for the sidecar.

    Raises:
        InputError: images that cannot be opened, or that are not what the manifest says.
    """
    from bench.data.sets.catalogue import DATASETS
    from bench.data.sets.opening import open_stream

    source, split, resolution = options.source, options.split, options.resolution
    if entry is not None:
        source, split, resolution = entry.dataset, split or entry.split, resolution or entry.resolution
    where: dict[str, Any] = {"data_root": options.data_root, "split": split, "resolution": resolution}
    if options.streaming and (source not in DATASETS or options.part):
        raise InputError(f"{source}: --streaming reads a data set by name, the whole of it; leave it or --part out")
    images: Images | StreamedImages
    if options.streaming:
        images = open_stream(source, **where)
    else:
        images = whole = sources.open_images(source, **where)
    if entry is not None and split == entry.split and len(images) != entry.images:
        raise InputError(f"{entry.name}: {len(images)} images, the manifest says {entry.images}; get the whole set")
    record: dict[str, Any] = {"dataset": portable(source), "split": split, "part": options.part}
    if options.part is not None:
        images = part(whole, *_part(options.part))
    return images, record | {"preprocessing": images.preprocessing, "environment": environment_record()}
