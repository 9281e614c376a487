"""Reference statistics made on request: of a reference of the manifest, of own images, or of parts built apart."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from bench.machine import status
from bench.quality.features import extractors
from bench.quality.references import manifest, pins
from bench.quality.references.build import build_reference, merge_references
from bench.quality.references.manifest import Entry
from bench.quality.references.options import EXTRACTOR, BuildOptions, MadeOptions, MergeOptions
from bench.quality.references.origin import open_origin, parse_part
from bench.quality.references.reference import Reference, read_reference, write_reference
from bench.records import take_directory
from dydit import InputError

_FILE_NAME = r"\w[\w.-]*"


def make_statistics(options: BuildOptions) -> Path:
    """Build statistics, and pin those that a reference of the manifest stands for; the file written.

    Raises:
        InputError: a reference that comes ready made, a name or file that is taken, or images or weights that cannot be
            used; before any long work.
    """
    entry = _entry(options.source)
    name = _name(options, entry)
    with _taken(options, name) as path:
        extractor = options.extractor or (entry.extractor if entry else EXTRACTOR)
        weights = extractors.extractor(extractor).weights(options.extractor_weights, options.weights_sha256)
        images, record = open_origin(options, entry)
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
    with _taken(options, options.name) as path:
        whole = merge_references([read_reference(file) for file in options.parts])
        if entry is not None and whole.pool.count != entry.images:
            count = whole.pool.count
            raise InputError(f"{entry.name}: {count} images, the manifest says {entry.images}; give every part")
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
    if entry is None or options.out is not None:
        write_reference(path, reference)
        return
    # Known before the file is there: a pin of another one would refuse it.
    write_reference(path, reference, lambda file, sha256: pins.renew(entry, file, sha256, options.root))


@contextlib.contextmanager
def _taken(options: MadeOptions, name: str) -> Iterator[Path]:
    """The file to write, which nobody else writes meanwhile; parts of one data set may be built in one directory.

    Raises:
        InputError: it exists already, another run writes it, or the directory cannot be used.
    """
    directory = options.out or (options.root or manifest.ROOT) / "statistics"
    with take_directory(directory, [f"{name}.npz", f"{name}.json"], name):
        path = directory / f"{name}.npz"
        if path.exists():
            raise InputError(f"{path}: exists already; remove it to build it again, or write elsewhere with --out DIR")
        yield path


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
    number, of = parse_part(options.part)
    return f"{name}.{number}of{of}"
