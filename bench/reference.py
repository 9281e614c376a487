"""Reference statistics: what generated images are compared with, as files that carry their evidence.

A file is an .npz in the layout of the ADM evaluator: `mu`, `sigma` of the pool features, `mu_s`, `sigma_s` of the
spatial ones, `arr_0` images (uint8 NHWC). The suite's own files add `count` and `features`, rows for precision, recall
and KID, and stand beside a JSON sidecar of the same stem: checksum, data set, split, preprocessing, extractor, weights,
environment.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import features, image_files, reference_manifest, results
from bench.features import Weights
from bench.images import Images
from bench.reference_manifest import ChecksumError, Entry
from bench.statistics import Moments, Statistics
from bench.streams import StreamedImages
from dydit.errors import InputError
from dydit.files import atomic_path

SCHEMA_VERSION = 1
"""Of the sidecar; to be raised when a key changes its meaning."""
ROWS = 10_000
"""Feature rows kept for precision, recall and KID: as many as the ADM evaluator's files hold images."""
_OF_A_PART = ("sha256", "count", "rows", "dtype", "part")
"""What a record says of one part, and not of the whole."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of real images, and what they were made of.

    `pool` and `spatial` are the Gaussians of FID and sFID; their `count` is 0 where the file does not say it. `rows`
    are pool features float32 (n, D) of n <= `ROWS` of the images, evenly spaced; `images` the uint8 images of an ADM
    file. `size` is (H, W) in pixels, `extractor` a name in `features.EXTRACTORS`; None: the file does not say. `record`
    holds data set, split, preprocessing, checksums and environment, fit for JSON.
    """

    name: str
    extractor: str | None
    size: tuple[int, int] | None
    pool: Statistics
    spatial: Statistics | None
    rows: NDArray[np.float32] | None
    images: Images | None
    record: dict[str, Any]


def build(
    source: Images | StreamedImages,
    extractor: str,
    weights: Path | Weights | None = None,
    *,
    name: str,
    record: Mapping[str, Any],
    batch_size: int = features.BATCH_SIZE,
) -> Reference:
    """Statistics of all images of `source`, in one pass and in O(D^2) memory.

    The rows kept are those at floor(i * N / n), i = 0..n-1, with n = min(N, `ROWS`).

    Args:
        source: N >= 2 images.
        extractor: name in `features.EXTRACTORS`.
        weights: its weights file; by default where the extractor looks.
        name: of the reference.
        record: data set, split, preprocessing and environment, as the sidecar shall show them.
        batch_size: images per forward pass; changes speed and memory only.

    Raises:
        InputError: images or weights that cannot be used.
    """
    spec = features.extractor(extractor)
    checked = weights if isinstance(weights, Weights) else spec.weights(weights)
    if len(source) < 2:
        raise InputError(f"{source.name}: {len(source)} images; statistics need at least 2")
    layers = (spec.features_layer, spec.spatial_layer)
    moments = {layer: Moments(spec.dimensions[layer]) for layer in layers}
    rows: list[NDArray[np.float32]] = []
    kept = _evenly_spaced(len(source), min(len(source), ROWS))
    start = 0
    for batch in features.stream(
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
        spatial=moments[spec.spatial_layer].statistics(),
        rows=np.concatenate(rows),
        images=None,
        record={**record, "weights_sha256": checked.sha256, "layers": list(layers)},
    )


def merge(parts: Sequence[Reference]) -> Reference:
    """One reference of disjoint parts of a data set (shards, ranks), in the order of its images.

    Means and covariances combine exactly. Each part gives rows in proportion to its count, evenly spaced; while the
    parts hold no more than `ROWS` images these are all rows.

    Raises:
        InputError: no parts, parts of other extractors, weights, sizes or data, or parts without a count.
    """
    if not parts:
        raise InputError("merge: no references given; name at least one")
    first = parts[0]
    for part in parts:
        for fact in ("extractor", "size"):
            _same(fact, first, getattr(first, fact), part, getattr(part, fact))
        for fact in ("dataset", "split", "preprocessing", "weights_sha256"):
            _same(fact, first, first.record.get(fact), part, part.record.get(fact))
        if part.pool.count < 2:
            raise InputError(f"{part.name}: its file does not say how many images it stands for; it cannot be merged")
    counts = np.cumsum([0, *(part.pool.count for part in parts)])
    shares = np.diff(counts * min(int(counts[-1]), ROWS) // counts[-1])
    rows = [
        part.rows[_evenly_spaced(len(part.rows), int(share))]
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


def write(path: Path, reference: Reference) -> Path:
    """Write `path` (.npz) and its sidecar, which is returned; the images of an ADM file are not copied.

    The .npz comes first: a run that breaks off between the two leaves a file that `read` refuses, never a wrong pair.

    Raises:
        InputError: `path` is no .npz, or the reference does not say its extractor or size.
    """
    if path.suffix != ".npz" or reference.extractor is None or reference.size is None:
        raise InputError(
            f"{path}: extractor {reference.extractor}, size {reference.size}; "
            "a reference is written as .npz, with both known"
        )
    arrays: dict[str, Any] = {
        "mu": reference.pool.mean,
        "sigma": reference.pool.covariance,
        "count": np.int64(reference.pool.count),
    }
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    if reference.rows is not None:
        arrays["features"] = reference.rows
    with atomic_path(path) as partial:
        np.savez(partial, **arrays)
        sha256 = features.file_sha256(partial)
    header = {
        "schema_version": SCHEMA_VERSION,
        "name": reference.name,
        "sha256": sha256,
        "extractor": reference.extractor,
        "resolution": list(reference.size),
        "count": reference.pool.count,
        "rows": 0 if reference.rows is None else len(reference.rows),
        "dtype": {key: str(value.dtype) for key, value in arrays.items()},
    }
    rest = {key: value for key, value in reference.record.items() if key not in header}
    return results.write_json(header | rest, path.with_suffix(".json"))


def read(path: str | Path, sha256: str | None = None) -> Reference:
    """The reference in a file: the suite's own with its sidecar, or an ADM evaluator's.

    Args:
        path: the .npz.
        sha256: its checksum, where the caller has taken it already.

    Raises:
        ChecksumError: the sidecar names another checksum; both are shown.
        InputError: no such file, a file that is not whole, arrays missing, of another dtype or shape or with NaN, or a
            sidecar missing or without what it must say.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such reference file; give a .npz with mu and sigma")
    sha256 = sha256 or reference_manifest.digest(path)
    sidecar = path.with_suffix(".json")
    record = _read_sidecar(sidecar) if sidecar.is_file() else None
    if record is not None and record["sha256"] != sha256:
        raise ChecksumError(
            f"{path}: SHA-256 {sha256}, its sidecar {sidecar.name} has {record['sha256']}; build it again"
        )
    arrays, stored = _read_arrays(path)
    if record is None and "count" in arrays:
        raise InputError(f"{path}: its sidecar {sidecar.name} is missing; put both there, or build it again")
    count = int(arrays.get("count", 0))
    pool = _statistics(path, arrays, "mu", "sigma", count)
    spatial = _statistics(path, arrays, "mu_s", "sigma_s", count) if {"mu_s", "sigma_s"} & arrays.keys() else None
    rows = arrays.get("features")
    if rows is not None and (rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != pool.dimensions):
        raise InputError(f"{path}: features is {rows.dtype} {rows.shape}; it must be float32 (n, {pool.dimensions})")
    if rows is not None and not np.isfinite(rows).all():
        raise InputError(f"{path}: NaN or infinite values in features; build it again")
    shown = image_files.open_npz(path, str(path)) if "arr_0" in stored else None
    if record is None:
        name, extractor, size = path.stem, None, None if shown is None else shown.size
    else:
        name, extractor, size = record["name"], record["extractor"], tuple(record["resolution"])
        if record["count"] != count:
            raise InputError(f"{path}: {count} images, its sidecar says {record['count']}; build it again")
    return Reference(name, extractor, size, pool, spatial, rows, shown, record or {"sha256": sha256})


def resolve(name_or_path: str | Path, data_root: Path | None = None, root: Path | None = None) -> Reference:
    """A reference by its name in the manifest, or from a file.

    A name is looked for in `root` (the repository's `reference_stats` by default) and in `data_root`. Its checksum is
    compared with the known one, or recorded at first use. A file with the name of an ADM evaluator's is that reference.

    Raises:
        ChecksumError: another file than the one known by this name; both checksums are shown.
        InputError: unknown name (the known ones are listed), missing file (with the remedy), or an unusable one.
    """
    entries = reference_manifest.load()
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
            return read(path)
    reference = open_entry(entry, path, root)
    reference_manifest.pin(entry, path, reference.record["sha256"], root)
    return reference


def open_entry(entry: Entry, path: Path, root: Path | None = None) -> Reference:
    """The reference `entry` from its file: checksum first, then `read`, then held against the manifest; not pinned.

    What an ADM evaluator's file does not say, the manifest does.

    Raises:
        ChecksumError: another checksum than the known one.
        InputError: a file that `read` refuses, or that is not what the manifest says.
    """
    sha256 = reference_manifest.digest(path)
    reference_manifest.compare(entry, path, sha256, root)
    reference = read(path, sha256)
    size = None if entry.resolution is None else (entry.resolution, entry.resolution)
    wanted = {key: getattr(entry, key) for key in ("dataset", "split", "preprocessing")}
    if entry.downloaded:
        held = {"mu", "sigma"} | ({"mu_s", "sigma_s"} if reference.spatial else set())
        held |= {"arr_0"} if reference.images is not None else set()
        if missing := [key for key in entry.keys if key not in held]:
            raise InputError(f"{path}: array {missing[0]} is missing; {entry.name} has {', '.join(entry.keys)}")
        reference = dataclasses.replace(
            reference,
            name=entry.name,
            extractor=entry.extractor,
            size=reference.size or size,
            pool=dataclasses.replace(reference.pool, count=entry.images),
            spatial=reference.spatial and dataclasses.replace(reference.spatial, count=entry.images),
            record=wanted | {"source": entry.source, "sha256": sha256},
        )
    said = {key: reference.record[key] for key in wanted}
    said |= {"extractor": reference.extractor, "images": reference.pool.count, "resolution": reference.size}
    wanted |= {"extractor": entry.extractor, "images": entry.images, "resolution": size or reference.size}
    for key, value in wanted.items():
        if said[key] != value:
            raise InputError(f"{path}: {key} {said[key]}, {entry.name} in the manifest has {value}; get another file")
    spec = features.extractor(entry.extractor)
    for layer, gaussian in ((spec.features_layer, reference.pool), (spec.spatial_layer, reference.spatial)):
        if gaussian is not None and gaussian.dimensions != spec.dimensions[layer]:
            raise InputError(
                f"{path}: {gaussian.dimensions} features, {spec.name} has {spec.dimensions[layer]} in layer {layer}; "
                "get another file"
            )
    return reference


def _evenly_spaced(total: int, n: int) -> NDArray[np.int64]:
    """Indices floor(i * total / n), i = 0..n-1."""
    return np.arange(n, dtype=np.int64) * total // max(n, 1)


def _combined(parts: Sequence[Statistics]) -> Statistics:
    """Mean and covariance of the union of disjoint sets."""
    moments = Moments.of(parts[0])
    for part in parts[1:]:
        moments.merge(Moments.of(part))
    return moments.statistics()


def _same(fact: str, first: Reference, one: Any, other: Reference, two: Any) -> None:
    if one != two:
        raise InputError(f"merge: {fact} of {first.name} is {one}, of {other.name} {two}; merge parts of one data set")


def _read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], set[str]]:
    """The arrays of a file without its images, and the names of all."""
    try:
        # Opened here: np.load leaves the file open when it is no archive.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            stored = set(file.files)
            wanted = stored & {"mu", "sigma", "mu_s", "sigma_s", "features", "count"}
            return {key: file[key] for key in wanted}, stored
    except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: no whole .npz ({error}); get or build it again") from None


def _statistics(path: Path, arrays: Mapping[str, NDArray[Any]], mean: str, covariance: str, count: int) -> Statistics:
    for key in (mean, covariance):
        if key not in arrays:
            raise InputError(f"{path}: array {key} is missing; a reference has mu, sigma and may have mu_s, sigma_s")
        if arrays[key].dtype.kind != "f":
            raise InputError(f"{path}: {key} is {arrays[key].dtype}; it must be floating point")
    try:
        return Statistics(count, arrays[mean], arrays[covariance])
    except InputError as error:
        raise InputError(f"{path}: {mean}, {covariance}: {error}") from error


_SIDECAR: dict[str, type] = {
    "name": str,
    "sha256": str,
    "extractor": str,
    "resolution": list,
    "count": int,
    "dataset": str,
    "preprocessing": str,
}
"""What every sidecar says."""


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not JSON ({error}); build the reference again") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema_version is {version!r}; this version of the project reads {SCHEMA_VERSION}")
    for key, kind in _SIDECAR.items():
        if not isinstance(record.get(key), kind):
            raise InputError(f"{path}: {key} is {record.get(key)!r}, no {kind.__name__}; build the reference again")
    if [type(side) for side in record["resolution"]] != [int, int]:
        raise InputError(f"{path}: resolution is {record['resolution']}, not [H, W]; build the reference again")
    return dict(record)
