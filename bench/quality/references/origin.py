"""The images that statistics are built from, and what statistics of a part of them are called."""

from __future__ import annotations

import re
from typing import Any

from bench.data import sources
from bench.data.image_set import Images, StreamedImages, part
from bench.data.sets.catalogue import DATASETS
from bench.data.sets.opening import open_stream
from bench.quality.references.manifest import Entry
from bench.quality.references.options import BuildOptions
from bench.records import environment_record, portable
from dydit import InputError


def open_origin(options: BuildOptions, entry: Entry | None) -> tuple[Images | StreamedImages, dict[str, Any]]:
    """The images to build from, and where they come from, for the sidecar.

    Raises:
        InputError: images that cannot be opened, or that are not what the manifest says.
    """
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
        images = part(whole, *parse_part(options.part))
    return images, record | {"preprocessing": images.preprocessing, "environment": environment_record()}


def parse_part(text: str) -> tuple[int, int]:
    """K and N of `K/N`.

    Raises:
        InputError: text of another form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise InputError(f"--part {text}: give it as K/N, such as 3/8")
    return int(match[1]), int(match[2])
