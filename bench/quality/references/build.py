"""References built from images, of a whole data set or of its parts, which are merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.image_set import ImageSet
from bench.quality.features import extraction, extractors
from bench.quality.features.extractors import Weights
from bench.quality.metrics.moments import Moments, Statistics
from bench.quality.references.reference import KEPT_ROWS, Reference
from dydit import InputError

_OF_A_PART = ("sha256", "count", "rows", "dtype", "part")
"""Keys of a record that describe one part only."""


def build_reference(
    source: ImageSet,
    extractor: str,
    weights: Path | Weights | None = None,
    *,
    name: str,
    record: Mapping[str, Any],
    batch_size: int = extraction.BATCH_SIZE,
) -> Reference:
    """A reference of all images of `source`, in one pass and in O(D^2) memory.

    The features of n = min(N, `KEPT_ROWS`) images are kept: those at floor(i * N / n), i = 0..n-1.

    Args:
        source: N >= 2 images.
        extractor: name in `bench.quality.features.extractors.EXTRACTORS`.
        weights: its weights file; by default where the extractor looks.
        name: of the reference.
        record: data set, split, preprocessing and environment, for the sidecar.
        batch_size: images per forward pass; changes speed and memory only.

    Raises:
        InputError: images or weights that cannot be used.
    """
    spec = extractors.extractor(extractor)
    checked = weights if isinstance(weights, Weights) else spec.weights(weights)
    if len(source) < 2:
        raise InputError(f"{source.name}: {len(source)} images; statistics need at least 2")
    layers = spec.statistics_layers
    moments = {layer: Moments(spec.dimensions[layer]) for layer in layers}
    rows: list[NDArray[np.float32]] = []
    kept = evenly_spaced(len(source), min(len(source), KEPT_ROWS))
    start = 0
    for batch in extraction.stream_features(
        source, extractor, layers, weights=checked, batch_size=batch_size, label=f"statistics of {name}"
    ):
        for layer in layers:
            moments[layer].update(batch[layer])
        pool = batch[spec.features_layer]
        rows.append(pool[kept[(kept >= start) & (kept < start + len(pool))] - start].astype(np.float32))
        start += len(pool)
    return Reference(
        name=name,
        extractor=extractor,
        size=source.size,
        pool=moments[spec.features_layer].statistics(),
        spatial=None if spec.spatial_layer is None else moments[spec.spatial_layer].statistics(),
        rows=np.concatenate(rows),
        images=None,
        record={
            **record,
            "weights_sha256": checked.sha256,
            "layers": list(layers),
            "arithmetic": extraction.describe_arithmetic(spec),
        },
    )


def merge_references(parts: Sequence[Reference]) -> Reference:
    """One reference of disjoint parts of a data set (shards, ranks), in the order of its images.

    Means and covariances combine exactly. Each part gives rows in proportion to its count, evenly spaced; where the
    parts have no more than `KEPT_ROWS` images together, these are all rows.

    Raises:
        InputError: no parts, parts of different extractors, weights, sizes or data, parts without a count, a part that
            is given twice, or parts that are not 1 to N of one N.
    """
    if not parts:
        raise InputError("merge: no references given; name at least one")
    first = parts[0]
    for part in parts:
        for fact in ("extractor", "size"):
            _check_same(fact, first, getattr(first, fact), part, getattr(part, fact))
        for fact in ("dataset", "split", "preprocessing", "weights_sha256"):
            _check_same(fact, first, first.record.get(fact), part, part.record.get(fact))
        if part.pool.count < 2:
            raise InputError(f"{part.name}: its file does not say how many images it stands for; it cannot be merged")
    _check_complete(parts)
    counts = np.cumsum([0, *(part.pool.count for part in parts)])
    shares = np.diff(counts * min(int(counts[-1]), KEPT_ROWS) // counts[-1])
    rows = [
        part.rows[evenly_spaced(len(part.rows), int(share))]
        for part, share in zip(parts, shares, strict=True)
        if part.rows is not None
    ]
    spatial = [part.spatial for part in parts if part.spatial is not None]
    return dataclasses.replace(
        first,
        pool=_combined([part.pool for part in parts]),
        spatial=_combined(spatial) if len(spatial) == len(parts) else None,
        rows=np.concatenate(rows) if len(rows) == len(parts) else None,
        images=None,
        record={key: value for key, value in first.record.items() if key not in _OF_A_PART},
    )


def evenly_spaced(total: int, n: int) -> NDArray[np.int64]:
    """Indices floor(i * total / n), i = 0..n-1, of the `n` rows that are kept of `total`."""
    return np.arange(n, dtype=np.int64) * total // max(n, 1)


def _combined(parts: Sequence[Statistics]) -> Statistics:
    """Mean and covariance of the union of disjoint sets."""
    moments = Moments.of(parts[0])
    for part in parts[1:]:
        moments.merge(Moments.of(part))
    return moments.statistics()


def _check_complete(parts: Sequence[Reference]) -> None:
    """Refuse files that count an image twice or leave one out, as far as their records tell."""
    sums = [part.record.get("sha256") for part in parts]
    for part, sha256 in zip(parts, sums, strict=True):
        if sha256 is not None and sums.count(sha256) > 1:
            raise InputError(f"merge: {part.name} is given {sums.count(sha256)} times; give each part once")
    told = [part.record.get("part") for part in parts]
    if not any(told):
        return
    of = str(next(name for name in told if name)).partition("/")[2]
    wanted = [f"{number}/{of}" for number in range(1, int(of) + 1)] if of.isdecimal() else []
    if sorted(map(str, told)) != sorted(wanted):
        shown = ", ".join("a whole set" if name is None else str(name)[:20] for name in told[:10])
        raise InputError(f"merge: the files are {shown}; give the parts 1/{of} to {of}/{of}, each once")


def _check_same(fact: str, first: Reference, one: Any, other: Reference, two: Any) -> None:
    if one != two:
        raise InputError(f"merge: {fact} of {first.name} is {one}, of {other.name} {two}; merge parts of one data set")
