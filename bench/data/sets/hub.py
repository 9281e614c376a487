"""Images in the rows of Hugging Face `datasets`: from the hub, or from local parquet files in the hub's layout."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.data import preprocessing
from bench.data.image_set import Images, StreamedImages
from bench.data.sets.catalogue import DataSet
from bench.machine import status
from dydit import InputError


def from_hub(entry: DataSet, split: str, resolution: int) -> Images:
    """The hub's copy of a split, downloaded into the cache of `datasets`.

    Raises:
        InputError: the hub cannot be reached, refuses, or has no such images; the message says what to download where.
    """
    rows = _hub_rows(entry, split, streaming=False)
    if len(rows) != entry.splits[split]:
        raise InputError(
            f"{entry.name}: {entry.hub_id} has {len(rows)} images in split {split}, expected {entry.splits[split]}; "
            "the hub's copy has changed, get another and give --data-root DIR"
        )
    return _mapped(rows, entry, split, resolution)


def stream_from_hub(entry: DataSet, split: str, resolution: int) -> StreamedImages:
    """The hub's copy of a split, read from the network image by image, with nothing kept.

    Raises:
        InputError: as `from_hub`; while it is read, also a network that fails.
    """
    return _streamed(_hub_rows(entry, split, streaming=True), entry, split, resolution, entry.splits[split])


def _hub_rows(entry: DataSet, split: str, streaming: bool) -> Any:
    if split in entry.local_splits:
        raise InputError(
            f"{entry.name}: {entry.hub_id} has no images of split {split}; put them into DIR/{entry.name}/{split} "
            "and give --data-root DIR"
        )
    import datasets

    try:
        with _bars_on_terminals_only():
            rows = datasets.load_dataset(entry.hub_id, entry.config, split=split, streaming=streaming)
    except Exception as error:  # each library between here and the hub has errors of its own
        hint = "; accept its terms there and log in with `hf auth login`, or" if entry.gated else ";"
        raise InputError(
            f"{entry.name}: {entry.hub_id} cannot be opened on the hub ({_reason(error)}){hint} download it where "
            f"there is a network (hf download {entry.hub_id} --repo-type dataset --local-dir DIR/{entry.name}) and "
            "give --data-root DIR"
        ) from error
    if rows.column_names is not None:  # a stream may not know before it is read
        _check_columns(entry, str(entry.hub_id), rows.column_names)
    return rows


def parquet_files(entry: DataSet, split: str, directory: Path) -> list[Path]:
    """The files of a split in the order of their names; none where the data set is not laid out as parquet.

    Raises:
        InputError: files of a numbered series are missing.
    """
    for pattern in (f"data/{split}-*", f"{entry.config}/{split}-*", f"{entry.config}/{split}/*"):
        files = sorted(directory.glob(f"{pattern}.parquet"))
        if files:
            _check_series(files, split)
            return files
    return []


def _check_series(files: list[Path], split: str) -> None:
    """Refuse numbered files `...-00000-of-00003[-FINGERPRINT].parquet` of which some are missing, double or foreign.

    Raises:
        InputError: otherwise; the folder and the numbers are named.
    """
    found = [re.search(r"-(\d+)-of-(\d+)(?:-[0-9a-fA-F]+)?\.parquet$", file.name) for file in files]
    numbered = [match for match in found if match is not None]
    if not numbered:
        return
    if len(numbered) < len(files) or len({match[2] for match in numbered}) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise InputError(f"{files[0].parent}: files of more than one series, such as {names}; keep one of them")
    numbers, count = [int(match[1]) for match in numbered], int(numbered[0][2])
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{files[0].parent}: a part of split {split} is there twice; keep one copy of each")
    if missing := sorted(set(range(count)) - set(numbers)):
        raise InputError(
            f"{files[0].parent}: {len(files)} of {count} parquet files of split {split} are there, number {missing[0]} "
            "is missing; download the others"
        )


def from_parquet(entry: DataSet, split: str, files: list[Path], resolution: int) -> Images:
    """The rows of local parquet files, converted into the cache of `datasets` and mapped from there.

    Raises:
        InputError: a file that is not whole, or that lacks a column of the data set.
    """
    rows, count = _parquet_rows(entry, files, streaming=False)
    if count != entry.splits[split]:
        status(f"{files[0].parent}: {count} rows; split {split} of {entry.title} has {entry.splits[split]}")
    return _mapped(rows, entry, split, resolution)


def stream_parquet(entry: DataSet, split: str, files: list[Path], resolution: int) -> StreamedImages:
    """The rows of local parquet files, read from these files themselves, without conversion.

    Raises:
        InputError: as `from_parquet`; damage far inside a file is noticed only when it is reached.
    """
    rows, count = _parquet_rows(entry, files, streaming=True)
    return _streamed(rows, entry, split, resolution, count)


def _parquet_rows(entry: DataSet, files: list[Path], streaming: bool) -> tuple[Any, int]:
    """The rows, and how many there are by the files' headers."""
    import datasets
    import pyarrow.parquet  # type: ignore[import-untyped]

    count = 0
    for path in files:
        try:
            header = pyarrow.parquet.read_metadata(path)
        except Exception as error:  # Arrow's own errors and the system's
            raise InputError(f"{path}: not a whole parquet file ({_reason(error)}); download it again") from error
        schema = header.schema.to_arrow_schema()
        _check_columns(entry, str(path), schema.names)
        kind = schema.field(entry.image_column).type
        if not (pyarrow.types.is_struct(kind) or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
            raise InputError(
                f"{path}: column {entry.image_column} is {str(kind)[:100]}; it must hold one picture per row, as a "
                "structure of bytes and path"
            )
        count += header.num_rows
    opener = datasets.IterableDataset if streaming else datasets.Dataset
    try:
        with _bars_on_terminals_only():
            rows = opener.from_parquet([str(path) for path in files], columns=_columns(entry))
    except Exception as error:  # as in `from_hub`
        raise InputError(
            f"{files[0].parent}: cannot be read ({_reason(error)}); download the parquet files again"
        ) from error
    return rows, count


def _columns(entry: DataSet) -> list[str]:
    return [column for column in (entry.image_column, entry.label_column) if column is not None]


def _check_columns(entry: DataSet, where: str, columns: list[str]) -> None:
    if missing := [column for column in _columns(entry) if column not in columns]:
        raise InputError(f"{where}: no column {missing[0]}, only {', '.join(columns)}; is this {entry.title}?")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextlib.contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silence = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if silence:
        disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            enable_progress_bars()


def _mapped(rows: Any, entry: DataSet, split: str, resolution: int) -> Images:
    reader = _Rows(_undecoded(rows, entry, _columns(entry)), entry, f"{entry.name}/{split}", resolution)
    labels = reader.labels if entry.label_column is not None else None
    size = (resolution, resolution)
    return Images(reader.title, size, len(rows), reader.read, labels, entry.preprocessing(resolution))


def _streamed(rows: Any, entry: DataSet, split: str, resolution: int, count: int) -> StreamedImages:
    reader = _Rows(_undecoded(rows, entry, [entry.image_column]), entry, f"{entry.name}/{split}", resolution)
    size = (resolution, resolution)
    return StreamedImages(reader.title, size, count, reader.stream, entry.preprocessing(resolution))


def _undecoded(rows: Any, entry: DataSet, columns: list[str]) -> Any:
    """These columns alone, the pictures as files: `datasets` would rotate them by their tags, unlike the protocol."""
    import datasets

    return rows.select_columns(columns).cast_column(entry.image_column, datasets.Image(decode=False))


@dataclass(frozen=True)
class _Rows:
    """Reader of rows whose image column holds undecoded files."""

    rows: Any
    entry: DataSet
    title: str
    resolution: int

    def read(self, index: int) -> Tensor:
        return self._picture(self.rows[index], f"{self.title}, row {index}")

    def labels(self) -> Tensor:
        column = self.entry.label_column
        values = self.rows.select_columns([column]).with_format("numpy")[:][column]
        if values.dtype.kind not in "iu":
            raise InputError(f"{self.title}: column {column} is {values.dtype}; it must hold whole numbers")
        self._check_label(int(values.min()))
        self._check_label(int(values.max()))
        return torch.from_numpy(values).to(torch.int64)

    def stream(self) -> Iterator[Tensor]:
        number = 0
        try:
            for number, row in enumerate(self.rows):
                yield self._picture(row, f"{self.title}, row {number}")
        except InputError:
            raise
        except Exception as error:  # the network's, the hub's or Arrow's
            raise InputError(
                f"{self.title}: the stream broke off after row {number} ({_reason(error)}); start again, or download it"
            ) from error

    def _picture(self, row: Mapping[str, Any], where: str) -> Tensor:
        stored = row[self.entry.image_column] or {}
        source = stored.get("bytes") or stored.get("path")
        if source is None:
            raise InputError(f"{where}: no picture is stored there; download the data set again")
        image = preprocessing.decode(source if isinstance(source, bytes) else Path(source), where)
        side = self.entry.stored_side
        if self.entry.native and image.size != (side, side):
            raise InputError(f"{where}: {image.height}x{image.width} pixels; {self.entry.title} has {side}x{side}")
        image = preprocessing.pad(image, self.entry.padding)
        return preprocessing.to_tensor(preprocessing.centre_crop(image, self.resolution))

    def _check_label(self, label: int) -> None:
        if not 0 <= label < self.entry.classes:
            raise InputError(f"{self.title}: label {label}; {self.entry.title} has 0 to {self.entry.classes - 1}")
