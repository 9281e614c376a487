"""The results of one run as they are written: tables and files first, and the record of what they are last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records.checksums import file_sha256
from bench.records.run_directory import ALL_FILES, take_directory, whole_file
from bench.records.run_record import RUN, write_run
from bench.records.tables import write_table


class Results:
    """The tables, files and record of one run in its directory.

    `run.json` is removed before the first file is written, and written last: it never stands beside files that it does
    not describe, whenever the run is killed. It holds the SHA-256 of those files, which readers compare.
    """

    def __init__(self, directory: Path, earlier: Mapping[str, Any] | None = None) -> None:
        """Nothing is written or removed yet.

        Args:
            directory: of the run.
            earlier: a record to whose files others are added: it stands, without these, until the new one is written.
        """
        self.directory, self._earlier, self._open = directory, earlier, False
        self._sums: dict[str, str] = dict((earlier or {}).get("files", {}))

    def write_table(self, frame: pd.DataFrame, name: str, lead: str = "") -> Path:
        """Write `name.csv` and `name.md`, see `bench.records.tables.write_table`. Returns the CSV."""
        self._begin(f"{name}.csv")
        path = write_table(frame, self.directory, name, lead)
        self._sums[path.name] = file_sha256(path)
        return path

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """A path to write to, which becomes the file `name` of the run once it is written.

        Raises:
            InputError: the file cannot be written; what was there before stays.
        """
        self._begin(name)
        with whole_file(self.directory / name) as partial:
            yield partial
            self._sums[name] = file_sha256(partial)

    def discard(self, name: str) -> None:
        """Remove a file that was made of the results of an earlier run."""
        self._begin(name)
        (self.directory / name).unlink(missing_ok=True)

    def write_record(self, record: Mapping[str, Any]) -> Path:
        """Write `run.json`; files that are written afterwards remove it again."""
        path = write_run({**record, "files": dict(sorted(self._sums.items()))}, self.directory)
        self._open = False
        return path

    def _begin(self, name: str) -> None:
        """The file `name` is about to change."""
        listed = self._sums.pop(name, None) is not None
        if self._open and not listed:
            return
        if self._earlier is None:
            (self.directory / RUN).unlink(missing_ok=True)
        else:
            write_run({**self._earlier, "files": self._sums}, self.directory)
        self._open = True


@contextlib.contextmanager
def take_results(directory: Path, files: Iterable[str] = ALL_FILES) -> Iterator[Results]:
    """Take a directory, as `take_directory` does, for the results of one run.

    Raises:
        InputError: as `take_directory`.
    """
    with take_directory(directory, files):
        yield Results(directory)
