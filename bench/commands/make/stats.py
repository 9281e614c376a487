"""`python -m bench stats`: build, merge, verify and list the reference statistics."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dydit import InputError

if TYPE_CHECKING:
    from bench.data.image_set import Images, StreamedImages
    from bench.quality.references.manifest import Entry


HELP = "build, merge, verify or list reference statistics"
OUT = None
EXTRACTOR = "inception-v3-compat"
"""For images that the manifest does not know."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(metavar="action", dest="action", required=True)
    about = "make statistics of a reference of the manifest, or of own images"
    build = actions.add_parser("build", help=about, description=about, allow_abbrev=False)
    build.add_argument("source", metavar="NAME", help="of the manifest; or images: a folder, an .npz, a data set")
    build.add_argument("--name", metavar="NAME", help="of the statistics; needed for a folder or file")
    build.add_argument("--split", metavar="SPLIT", help="of the data set, if not the manifest's")
    build.add_argument("--resolution", type=int, metavar="PIXELS", help="ADM's centre crop, if not the manifest's")
    build.add_argument("--extractor", metavar="NAME", help=f"the manifest's by default, {EXTRACTOR} for own images")
    build.add_argument("--weights", type=Path, metavar="FILE", help="the extractor's weights, if not where it looks")
    build.add_argument("--weights-sha256", metavar="HEX", help="of weights other than the published ones")
    build.add_argument("--part", metavar="K/N", help="of the K-th of N parts alone, to share the work; then `merge`")
    about = "read a data set as it comes from the hub or from parquet files, with no copy of it on the disk"
    build.add_argument("--streaming", action="store_true", help=about)
    about = "join the statistics of all parts of a data set"
    merge = actions.add_parser("merge", help=about, description=about, allow_abbrev=False)
    merge.add_argument("name", metavar="NAME", help="of the whole")
    merge.add_argument("parts", nargs="+", type=Path, metavar="FILE", help=".npz of a part, in the order of the images")
    about = "check every reference that is present, or those named; status 1 if one is damaged"
    verify = actions.add_parser("verify", help=about, description=about, allow_abbrev=False)
    verify.add_argument("names", nargs="*", metavar="NAME", help="of the manifest; all by default")
    about = "show all references, where they come from and whether they are present"
    listing = actions.add_parser("list", help=about, description=about, allow_abbrev=False)
    for action in (build, merge):
        action.add_argument(
            "--out", type=Path, metavar="DIR", help="where to write; statistics/ of the root by default"
        )
    for action in (build, merge, verify, listing):
        action.add_argument("--data-root", type=Path, metavar="DIR", help="directory of data sets and downloaded files")
        action.add_argument("--root", type=Path, metavar="DIR", help="of pins and statistics, if not the usual one")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    return {"build": _build, "merge": _merge, "verify": _verify, "list": _list}[options.action](options)


def _build(options: argparse.Namespace) -> int:
    from bench.machine import status
    from bench.quality.features import extractors
    from bench.quality.references import manifest
    from bench.quality.references.build import build_reference
    from bench.quality.references.pins import renew
    from bench.quality.references.reference import write_reference
    from bench.records import file_sha256

    entry = manifest.load_manifest().get(options.source)
    if entry is not None and entry.downloaded:
        raise InputError(f"{entry.name}: it comes ready made; {entry.remedy()}, then run stats verify {entry.name}")
    name = _name(options, entry)
    path = _target(options, name)
    extractor = options.extractor or (entry.extractor if entry else EXTRACTOR)
    weights = extractors.extractor(extractor).weights(options.weights, options.weights_sha256)
    images, facts = _images(options, entry)
    built = build_reference(images, extractor, weights, name=name, record=facts)
    write_reference(path, built)
    if entry is not None and name == entry.name and options.out is None:
        renew(entry, path, file_sha256(path), options.root)
    status(f"{path}: {built.pool.count} images, {built.pool.dimensions} features")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from bench.machine import status
    from bench.quality.references import manifest
    from bench.quality.references.build import merge_references
    from bench.quality.references.pins import renew
    from bench.quality.references.reference import read_reference, write_reference
    from bench.records import file_sha256

    entry = manifest.load_manifest().get(options.name)
    if entry is not None and entry.downloaded:
        raise InputError(f"{entry.name}: it comes ready made; {entry.remedy()}, then run stats verify {entry.name}")
    if not re.fullmatch(r"\w[\w.-]*", options.name):
        raise InputError(f"{options.name}: no file name; choose another")
    path = _target(options, options.name)
    whole = merge_references([read_reference(part) for part in options.parts])
    if entry is not None and whole.pool.count != entry.images:
        raise InputError(f"{entry.name}: {whole.pool.count} images, the manifest says {entry.images}; give every part")
    write_reference(path, dataclasses.replace(whole, name=options.name))
    if entry is not None and options.out is None:
        renew(entry, path, file_sha256(path), options.root)
    status(f"{path}: {whole.pool.count} images of {len(options.parts)} parts")
    return 0


def _target(options: argparse.Namespace, name: str) -> Path:
    """The file to write, in a directory that can be written.

    Raises:
        InputError: it exists already, or the directory cannot be used.
    """
    from bench.quality.references import manifest
    from bench.records import prepare_output

    directory = prepare_output(options.out or manifest.chosen_root(options.root) / "statistics")
    path: Path = directory / f"{name}.npz"
    if path.exists():
        raise InputError(f"{path}: exists already; remove it to build it again, or write elsewhere with --out DIR")
    return path


def _part(text: str) -> tuple[int, int]:
    """K and N of `K/N`."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise InputError(f"--part {text}: give it as K/N, such as 3/8")
    return int(found[1]), int(found[2])


def _name(options: argparse.Namespace, entry: Entry | None) -> str:
    """What to call the statistics: by default the manifest's name, lengthened by what departs from the manifest.

    Raises:
        InputError: no name, one that is no file name, or one that the manifest has for something else.
    """
    from bench.quality.references import manifest

    usual = None
    if entry is not None:
        chosen = [(options.split, entry.split), (options.resolution, entry.resolution)]
        chosen += [(options.extractor, entry.extractor), (options.weights_sha256, None)]
        usual = "-".join([entry.name, *(str(own)[:20] for own, listed in chosen if own not in (None, listed))])
    name = options.name or usual
    if name is None:
        raise InputError(f"{options.source}: not in the manifest; say what to call the statistics with --name NAME")
    if not re.fullmatch(r"\w[\w.-]*", name) or (name != usual and name in manifest.load_manifest()):
        raise InputError(f"--name {name}: no file name, or the manifest's for other statistics; choose another")
    if options.part is None:
        return str(name)
    number, of = _part(options.part)
    return f"{name}.{number}of{of}"


def _images(options: argparse.Namespace, entry: Entry | None) -> tuple[Images | StreamedImages, dict[str, object]]:
    """The images to build from, and how they were come by, for the sidecar.

    Raises:
        InputError: images that cannot be opened, or that are not what the manifest says.
    """
    from bench.data import sources
    from bench.data.image_set import part
    from bench.data.sets.catalogue import DATASETS
    from bench.data.sets.opening import open_stream
    from bench.records import environment_record, portable

    source, split, resolution = options.source, options.split, options.resolution
    if entry is not None:
        source, split, resolution = entry.dataset, split or entry.split, resolution or entry.resolution
    where = {"data_root": options.data_root, "split": split, "resolution": resolution}
    if options.streaming and (source not in DATASETS or options.part):
        raise InputError(f"{source}: --streaming reads a data set by name, the whole of it; leave it or --part out")
    images: Images | StreamedImages
    if options.streaming:
        images = open_stream(source, **where)
    else:
        images = whole = sources.open_images(source, **where)
    if entry is not None and split == entry.split and len(images) != entry.images:
        raise InputError(f"{entry.name}: {len(images)} images, the manifest says {entry.images}; get the whole set")
    record: dict[str, object] = {"dataset": portable(source), "split": split, "part": options.part}
    if options.part is not None:
        images = part(whole, *_part(options.part))
    return images, record | {"preprocessing": images.preprocessing, "environment": environment_record()}


def _verify(options: argparse.Namespace) -> int:
    import pandas as pd

    from bench.machine import track
    from bench.quality.references import manifest
    from bench.quality.references.verify import verify_reference
    from bench.records import to_markdown

    entries = manifest.load_manifest()
    if unknown := [name for name in options.names if name not in entries]:
        raise InputError(f"{unknown[0]}: no such reference; the manifest has {', '.join(entries)}")
    wanted = [entries[name] for name in options.names or entries]
    checks = [verify_reference(entry, options.data_root, options.root) for entry in track(wanted, "verifying")]
    print(to_markdown(pd.DataFrame([_shown(dataclasses.asdict(check)) for check in checks])))
    broken = [check.name for check in checks if check.status not in ("ok", "missing")]
    if broken:
        print(f"damaged or changed: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


def _list(options: argparse.Namespace) -> int:
    import pandas as pd

    from bench.quality.references import manifest
    from bench.quality.references.pins import read_pins
    from bench.records import to_markdown

    pins = read_pins(options.root)
    rows = []
    for entry in manifest.load_manifest().values():
        path = entry.find(options.data_root, options.root)
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
                "present": path,
                "checksum": "manifest" if entry.sha256 else f"first use {pin.first_used}" if pin else "at first use",
                "note": entry.note,
            }
        )
    print(to_markdown(pd.DataFrame([_shown(row) for row in rows])))
    return 0


def _shown(row: dict[str, object]) -> dict[str, object]:
    """The row with paths as they may be published: relative to the repository or the home directory."""
    from bench.records import portable

    return {
        key: portable(str(value)) if isinstance(value, Path) or key == "note" else value for key, value in row.items()
    }
