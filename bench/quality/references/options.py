"""The options of commands that make reference statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.options import PIXELS, DataOptions, ExtractorOptions, option

EXTRACTOR = "inception-v3-compat"
"""For images that the manifest does not know."""


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
    resolution: int | None = option(
        None, metavar="PIXELS", help="ADM's centre crop, if not the manifest's", within=PIXELS
    )
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
