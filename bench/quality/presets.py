"""Evaluations that others published: which files went in, which numbers came out, and how far ours may differ.

They stand in `reference_stats/presets.toml`. Running one checks the whole path, from pixels to metrics, against numbers
that were not made by this suite.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.claims.verdict import Claim, SummaryRow, Tolerance
from bench.quality.features import extractors
from bench.quality.measure import Quality
from bench.quality.metrics.distances import DISTANCES
from bench.quality.references import manifest
from bench.quality.settings import METRICS
from bench.records import read_toml, shipped_data
from dydit import InputError

PATH = shipped_data() / "presets.toml"
_KEYS = ("title", "source", "extractor", "samples", "reference", "distances", "metrics")


@dataclass(frozen=True)
class PublishedMetric:
    """A printed value, and how far a measured one may lie from it."""

    value: float
    tolerance: Tolerance


@dataclass(frozen=True)
class Preset:
    """One published evaluation.

    `source` is the address of the page that printed it, `samples` that of its .npz of images, `reference` a name in the
    manifest of references; `distances` is the kind of distances behind precision and recall, one of
    `bench.quality.metrics.distances.DISTANCES`; the keys of `metrics` are names in `bench.quality.settings.METRICS`.
    """

    name: str
    title: str
    source: str
    extractor: str
    samples: str
    reference: str
    distances: str
    metrics: Mapping[str, PublishedMetric]

    @property
    def file(self) -> str:
        """Name of the .npz of samples."""
        return self.samples.rsplit("/", 1)[-1]

    def find(self, root: Path) -> Path:
        """Where the samples lie, after a check that both files are there.

        Args:
            root: directory of the files; the reference may lie among the statistics of the repository, too.

        Raises:
            InputError: one or both are missing; each is named with where to get it.
        """
        entry = manifest.load_manifest()[self.reference]
        addresses = {self.file: self.samples} if not (root / self.file).is_file() else {}
        if entry.find(root) is None:
            addresses[entry.file] = entry.source
        if addresses:
            missing = " and ".join(f"{file} (from {address})" for file, address in addresses.items())
            raise InputError(
                f"preset {self.name}: missing in {root.resolve()}: {missing}; "
                "put it there, or name its directory with --data-root"
            )
        return root / self.file

    def judge(self, measured: Quality) -> list[SummaryRow]:
        """One verdict per published number, `reproduced` or `deviates`."""
        spec = extractors.extractor(self.extractor)
        return [
            SummaryRow.judged(
                Claim(f"{self.name}-{metric.lower()}", self.source, self.title, spec.metric(metric), "", printed.value),
                measured[metric].value,
                printed.tolerance,
                tier="preset",
                evidence=f"quality.csv: {spec.metric(metric)}",
                note=measured[metric].note,
            )
            for metric, printed in self.metrics.items()
        ]


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        InputError: unknown name (the known ones are listed), or a file of presets that cannot be used.
    """
    presets = _load(PATH)
    if name not in presets:
        raise InputError(f"unknown preset {name!r}; choose one of {', '.join(presets)}")
    return presets[name]


@functools.cache
def _load(path: Path) -> dict[str, Preset]:
    return {name: _preset(f"{path}, [{name}]", name, table) for name, table in read_toml(path).items()}


def _preset(where: str, name: str, table: dict[str, Any]) -> Preset:
    """A checked preset; `where` opens the message of what is wrong."""
    if set(table) != set(_KEYS):
        raise InputError(f"{where}: keys are {', '.join(sorted(table))}; a preset has {', '.join(_KEYS)}")
    if table["reference"] not in manifest.load_manifest():
        raise InputError(f"{where}: reference {table['reference']!r} is no name of the manifest")
    extractors.extractor(table["extractor"])
    if table["distances"] not in DISTANCES:
        raise InputError(f"{where}: distances {table['distances']!r}; choose one of {', '.join(DISTANCES)}")
    metrics = {}
    for metric, printed in table["metrics"].items():
        if metric not in METRICS or set(printed) != {"value", "tolerance", "reason"}:
            raise InputError(
                f"{where}: metric {metric} with {', '.join(sorted(printed))}; metrics are {', '.join(METRICS)}, "
                "each with value, tolerance and reason"
            )
        tolerance = Tolerance.symmetric(float(printed["tolerance"]), printed["reason"])
        metrics[metric] = PublishedMetric(float(printed["value"]), tolerance)
    return Preset(name=name, **(table | {"metrics": metrics}))
