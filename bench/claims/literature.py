"""Work and speed that papers print, on common scales: every row against its source's own baseline."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.claims.published import DIRECTORY, PublishedValue, load_published
from bench.records import from_table, read_toml
from dydit import InputError, model_config
from dydit.flops import CONVENTIONS, DYDIT_PAPER, GIGA, macs

CONVENTIONS_FILE = DIRECTORY / "literature_conventions.toml"
LITERATURE, DYDIT = "literature_imagenet256", "dydit_iclr2025"
LITERATURE_FILES = (f"{LITERATURE}.csv", f"{DYDIT}.csv", CONVENTIONS_FILE.name)
"""What the points are read from, in the folder of published tables."""
TERA = 1e12
_UNITS = {"G": GIGA, "T": TERA}
_COVERS = ("pass", "step", "image")
_EFFICIENCY = frozenset({*_UNITS, "x", "s", "ms", "it/s", "img/s"})
"""Units of work, of time, and of ratios of them."""
_AGREEMENT = 0.01
"""How far a baseline's work may lie from the suite's count of its network: less than attention's products change it."""


@dataclass(frozen=True)
class Source:
    """What the numbers of some rows of a published table count; the fields are those that the file explains."""

    name: str
    paper: str
    table: str
    file: str = LITERATURE
    rows: str = ".*"
    baseline: str = ""
    network: str = ""
    steps: int = 0
    branches: int = 2
    fid: str = "FID-50K"
    joined: str = ""
    work: str = ""
    operations: int = 1
    covers: str = "pass"
    images: int = 1
    ratio: str = ""
    time: str = ""
    rate: str = ""
    speedup: str = ""
    reason: str = ""
    left_out: str = ""

    def __post_init__(self) -> None:
        if self.covers not in _COVERS:
            raise InputError(f"{self.name}: covers = {self.covers!r}; choose one of {', '.join(_COVERS)}")

    @property
    def passes(self) -> int:
        """Network passes that a printed number covers."""
        return {"pass": 1, "step": self.branches, "image": self.branches * self.steps}[self.covers] * self.images


@dataclass(frozen=True)
class LiteraturePoint:
    """A row of a published table, on the scales of every other.

    `work` is the multiply-adds of one image, all steps and guidance branches, and `share` that over the baseline's.
    `fid_ratio` is the row's FID over the baseline's, and `speedup` how many times as fast it is. None is what the
    table does not print, or not in a way that is understood, as `left_out` says. `counted` says how the work was read.
    """

    source: str
    file: str
    paper: str
    table: str
    row: str
    baseline: bool
    fid: float | None
    fid_ratio: float | None
    work: float | None
    share: float | None
    speedup: float | None
    counted: str
    left_out: str


def literature_points(path: Path = CONVENTIONS_FILE) -> tuple[LiteraturePoint, ...]:
    """Every row that the file of conventions speaks of, in the order of its entries and of the tables' rows.

    Raises:
        InputError: an entry that does not fit the tables, or by whose convention the baseline's work is not that of
            its network.
    """
    return tuple(point for source in _sources(path) for point in _points(source, f"{path.name}, [{source.name}]"))


@functools.cache
def _sources(path: Path) -> tuple[Source, ...]:
    return tuple(from_table(Source, name, table, f"{path.name}, [{name}]") for name, table in read_toml(path).items())


def _points(source: Source, where: str) -> list[LiteraturePoint]:
    rows = _rows(source)
    if not rows or (source.baseline and source.baseline not in rows):
        raise InputError(
            f"{where}: {source.file}.csv has no row {source.baseline or source.rows!r} of that paper, table"
        )
    base = rows.get(source.baseline, {})
    counted = _counted(source, base, where) if source.work else "printed as a ratio" if source.ratio else ""
    points = []
    for row, values in rows.items():
        fid, share, speedup = _number(values, source.fid), _share(source, values, base), _speedup(source, values, base)
        base_fid = _number(base, source.fid)
        drawn = fid is not None and (share, speedup) != (None, None)
        asked = _prints_both(values) and not drawn
        points.append(
            LiteraturePoint(
                source=source.name, file=source.file, paper=source.paper, table=source.table, row=row,
                baseline=row == source.baseline, fid=fid,
                fid_ratio=fid / base_fid if fid and base_fid else None,
                work=None if share is None else share * _baseline_work(source),
                share=share, speedup=speedup, counted=counted,
                left_out=source.left_out if asked else "",
            )
        )  # fmt: skip
    return points


def _rows(source: Source) -> dict[str, dict[str, PublishedValue]]:
    """Row -> metric -> the first value printed of it."""
    rows: dict[str, dict[str, PublishedValue]] = {}
    names: dict[str, str] = {}
    for value in load_published(source.file):
        own = (value.paper, value.table, value.dataset) == (source.paper, source.table, "ImageNet-256")
        if own and value.value is not None and re.fullmatch(source.rows, value.row):
            key = re.search(source.joined, value.row) if source.joined else None
            name = names.setdefault(key[0], value.row) if key else value.row
            rows.setdefault(name, {}).setdefault(value.metric, value)
    return rows


def _prints_both(values: Mapping[str, PublishedValue]) -> bool:
    """Whether a row has a FID beside work or time: something to draw."""
    return any(metric.startswith("FID-50K") for metric in values) and any(
        value.unit in _EFFICIENCY for value in values.values()
    )


def _number(values: Mapping[str, PublishedValue], metric: str) -> float | None:
    return values[metric].value if metric in values else None


def _share(source: Source, values: Mapping[str, PublishedValue], base: Mapping[str, PublishedValue]) -> float | None:
    """Work over the baseline's."""
    if source.work:
        return _over(_operations(source, values), _operations(source, base))
    return _over(1.0, _number(values, source.ratio))


def _speedup(source: Source, values: Mapping[str, PublishedValue], base: Mapping[str, PublishedValue]) -> float | None:
    """The baseline's time over the row's."""
    if source.time:
        return _over(_number(base, source.time), _number(values, source.time))
    return _over(_number(values, source.rate), _number(base, source.rate)) or _number(values, source.speedup)


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _operations(source: Source, values: Mapping[str, PublishedValue]) -> float | None:
    """The printed work in operations."""
    printed = values.get(source.work)
    if printed is None or printed.value is None:
        return None
    if printed.unit not in _UNITS:
        raise InputError(f"{source.name}: {printed.metric!r} is in {printed.unit}; work is in {' or '.join(_UNITS)}")
    return printed.value * _UNITS[printed.unit]


def _baseline_work(source: Source) -> float:
    """Multiply-adds of an image of the baseline, as the DyDiT paper counts."""
    return macs(model_config(source.network)).total(DYDIT_PAPER) * source.branches * source.steps


def _counted(source: Source, base: Mapping[str, PublishedValue], where: str) -> str:
    """How the baseline's printed work comes to that of its network, in words."""
    total = _operations(source, base)
    if total is None:
        raise InputError(f"{where}: the baseline prints no {source.work!r}; without it no convention can be checked")
    a_pass = total / source.operations / source.passes
    counts = {each.name: macs(model_config(source.network)).total(each) for each in CONVENTIONS}
    name = min(counts, key=lambda each: abs(counts[each] - a_pass))
    if abs(a_pass / counts[name] - 1) > _AGREEMENT:
        raise InputError(
            f"{where}: {total / TERA:g} T come to {a_pass / GIGA:.2f} G for a pass of {source.network}, which counts "
            f"{counts[name] / GIGA:.2f} G; correct operations, covers, images, branches or steps"
        )
    factors = [f"{source.operations} operations"] * (source.operations > 1)
    factors += [f"{source.branches} branches"] * (source.covers != "pass")
    factors += [f"{source.steps} steps"] * (source.covers == "image")
    factors += [f"{source.images} images"] * (source.images > 1)
    printed = base[source.work]
    return " x ".join([f"{printed.printed} {printed.unit} = {a_pass / GIGA:.2f} G", *factors]) + f" ({name})"
