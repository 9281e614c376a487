"""References: what generated images are compared with, in memory and as files that carry their evidence.

A file is an .npz in the layout of the ADM evaluator: statistics `mu`, `sigma` of the pool features and `mu_s`,
`sigma_s` of the spatial ones, and images `arr_0` (uint8 NHWC). The suite's own files also have `count` and `features`
(rows for precision, recall and KID), and a JSON sidecar of the same stem beside them, with checksum, data set, split,
preprocessing, extractor, weights and environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.files import open_npz
from bench.data.image_set import Images
from bench.quality.features import ExtractorSpec
from bench.quality.metrics.moments import Statistics
from bench.quality.references import pins
from bench.quality.references.pins import ChecksumError
from bench.records import check_schema, file_sha256, open_archive, read_json, read_member, whole_file, write_json
from dydit import InputError, first_line

SCHEMA_VERSION = 1
"""Of the sidecar; to be raised when a key changes its meaning."""
KEPT_ROWS = 10_000
"""Most feature rows that a reference keeps for precision, recall and KID: the ADM files hold as many images."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics and features of real images, and where they come from.

    Attributes:
        name: for tables and errors.
        extractor: a name in `bench.quality.features.extractors.EXTRACTORS`; None: the file does not say.
        size: (H, W) of the images in pixels; None: the file does not say.
        pool: statistics of FID; their `count` is 0 where the file does not say it.
        spatial: statistics of sFID, where there are some.
        rows: pool features float32 (n, D) of n <= `KEPT_ROWS` of the images, evenly spaced.
        images: of an ADM file.
        record: data set, split, preprocessing, checksums and environment, fit for JSON.
    """

    name: str
    extractor: str | None
    size: tuple[int, int] | None
    pool: Statistics
    spatial: Statistics | None
    rows: NDArray[np.float32] | None
    images: Images | None
    record: dict[str, Any]

    def misfit(self, spec: ExtractorSpec) -> str:
        """What an extractor cannot have made of the statistics, in words; empty where all of them fit."""
        for layer, statistics in ((spec.features_layer, self.pool), (spec.spatial_layer, self.spatial)):
            if statistics is not None and layer is None:
                return f"it has spatial features, which {spec.name} has not"
            if statistics is not None and layer is not None and statistics.dimensions != spec.dimensions[layer]:
                return (
                    f"it has {statistics.dimensions} features where {spec.name} has {spec.dimensions[layer]} ({layer})"
                )
        return ""


def write_reference(
    path: Path, reference: Reference, announce: Callable[[Path, str], None] = lambda file, sha256: None
) -> Path:
    """Write `path` (.npz) and its sidecar, which is returned; the images of an ADM file are not copied.

    The .npz appears last: where a run breaks off before, there is no reference, and nothing hinders the next run.

    Args:
        path: the .npz.
        reference: what is written.
        announce: is called with the file and its SHA-256 before it gets its name.

    Raises:
        InputError: `path` is no .npz, the reference does not say its extractor or size, or a file cannot be written.
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
    with whole_file(path) as partial:
        np.savez(partial, **arrays)
        header = {
            "schema_version": SCHEMA_VERSION,
            "name": reference.name,
            "sha256": file_sha256(partial),
            "extractor": reference.extractor,
            "resolution": list(reference.size),
            "count": reference.pool.count,
            "rows": 0 if reference.rows is None else len(reference.rows),
            "dtype": {key: str(value.dtype) for key, value in arrays.items()},
        }
        rest = {key: value for key, value in reference.record.items() if key not in header}
        sidecar = write_json(header | rest, path.with_suffix(".json"))
        announce(partial, str(header["sha256"]))
    return sidecar


def read_reference(path: str | Path, sha256: str | None = None) -> Reference:
    """The reference in a file: one of the suite, with its sidecar, or one of the ADM evaluator.

    Args:
        path: the .npz.
        sha256: its checksum, where the caller has computed it already.

    Raises:
        ChecksumError: the sidecar names another checksum; both are shown.
        InputError: no such file, a file that is not whole, an array that is missing, of another dtype or shape or with
            NaN, or a sidecar that is missing or incomplete.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such reference file; give a .npz with mu and sigma")
    sha256 = sha256 or pins.digest(path)
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
    images = open_npz(path, str(path)) if "arr_0" in stored else None
    if record is None:
        name, extractor, size = path.stem, None, None if images is None else images.size
    else:
        name, extractor, size = record["name"], record["extractor"], tuple(record["resolution"])
        if record["count"] != count:
            raise InputError(f"{path}: {count} images, its sidecar says {record['count']}; build it again")
    return Reference(name, extractor, size, pool, spatial, rows, images, record or {"sha256": sha256})


def _read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], set[str]]:
    """The arrays of a file except its images, and the names of all arrays."""
    try:
        with open_archive(path) as archive:
            stored = {name.removesuffix(".npy") for name in archive.namelist()}
            wanted = stored & {"mu", "sigma", "mu_s", "sigma_s", "features", "count"}
            return {key: read_member(archive, f"{key}.npy") for key in wanted}, stored
    except Exception as error:  # damaged bytes raise many kinds
        raise InputError(f"{path}: no whole .npz ({first_line(error)}); get or build it again") from None


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
"""What every sidecar must have, with its type."""


def _read_sidecar(path: Path) -> dict[str, Any]:
    record = read_json(path, "build the reference again")
    check_schema(record, SCHEMA_VERSION, path)
    for key, kind in _SIDECAR.items():
        if type(record.get(key)) is not kind:
            value = repr(record.get(key))[:60]
            raise InputError(f"{path}: {key} is {value}, no {kind.__name__}; build the reference again")
    if [type(side) for side in record["resolution"]] != [int, int]:
        raise InputError(f"{path}: resolution is {record['resolution']}, not [H, W]; build the reference again")
    return record
