"""Runs as they lie in folders, whatever state they are in: what can be read of each, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.claims import Finding, SummaryRow, read_findings, read_summary
from bench.records import ROOT, machine_name, portable, read_run, read_table
from bench.report.index import LOCAL, RESULTS, TABLES
from dydit import InputError


@dataclass(frozen=True)
class Run:
    """What can be read of a run folder.

    `place` is MACHINE/RUN of a committed run and the folder's path of another one. `machine` is the kind of machine
    that the record names (empty: no record). `tables` holds every readable CSV by its name, in text and numbers as they
    stand. `summary` and `findings` are empty where the run has none. `problems` says what is missing or broken, a
    sentence each.
    """

    place: str
    directory: Path
    machine: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    summary: tuple[SummaryRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    pictures: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()

    def file(self, name: str) -> str:
        """The path of one of its files, for people: from the root of a checkout where it lies inside."""
        path = (self.directory / name).absolute()
        return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else portable(str(path))

    def command(self) -> str:
        """The command that made the run; empty without a record."""
        return str(self.record.get("command", ""))

    def commit(self) -> str:
        """The short commit that it was made at, and whether the files differed from it; empty without a record."""
        if not self.record.get("commit"):
            return ""
        return str(self.record["commit"])[:12] + (" and changes" if self.record.get("dirty") else "")


def run_folders(results: Path = RESULTS) -> list[Path]:
    """The folders MACHINE/RUN under results/, in the order of their names, apart from `local`; none if there are none.

    Other than `bench.report.index.committed_runs`, this passes a folder on that is in a wrong state, to be told of.
    """
    machines = sorted(folder for folder in results.glob("*") if folder.is_dir() and folder.name != LOCAL)
    return [run for machine in machines for run in sorted(machine.glob("*")) if run.is_dir()]


def load_runs(folders: Iterable[Path], results: Path = RESULTS) -> tuple[Run, ...]:
    """Read every folder; what cannot be read becomes a problem of its run, never an error."""
    return tuple(_load(folder, results) for folder in folders)


def with_table(runs: Sequence[Run], name: str, *columns: str) -> list[tuple[Run, pd.DataFrame]]:
    """The runs that have a table with these columns, each with that table."""
    return [(run, run.tables[name]) for run in runs if name in run.tables and {*columns} <= {*run.tables[name].columns}]


def latest_rows(runs: Sequence[Run]) -> tuple[SummaryRow, ...]:
    """Every published number once: as the run says that measured it, else as the last run says."""
    rows: dict[str, SummaryRow] = {}
    for run in runs:
        for row in run.summary:
            if row.verdict != "not run" or row.claim_id not in rows:
                rows[row.claim_id] = row
    return tuple(rows.values())


def guarded(make: Callable[[], Any], problems: list[str], otherwise: Any, what: str = "") -> Any:
    """What `make` returns; a table that holds something else than it should is a problem of the page, not its end.

    Args:
        make: reads tables of runs.
        problems: gets a sentence where it fails.
        otherwise: stands for what it would return.
        what: is made, for that sentence.
    """
    try:
        return make()
    except (InputError, ValueError, KeyError, TypeError, IndexError) as error:
        words = f"{what}: left out, its tables hold something unexpected ({error})" if what else str(error)
        problems.append(words.replace(str(ROOT), "."))
        return otherwise


def _load(folder: Path, results: Path) -> Run:
    place = folder.relative_to(results).as_posix() if folder.is_relative_to(results) else portable(str(folder))
    problems: list[str] = []
    record = _try(lambda: read_run(folder), problems, {})
    machine = _try(lambda: machine_name(record, f"{place}/run.json"), problems, "") if record else ""
    if machine and folder.is_relative_to(results) and folder.parent.name not in (machine, LOCAL):
        problems.append(f"{place}: was measured on {machine}; move it to {machine}/{folder.name}")
    tables = {
        path.stem: table
        for path in sorted(folder.glob("*.csv"))
        if (table := _try(lambda path=path: read_table(folder, path.stem), problems, None)) is not None
    }
    listed = record.get("files")
    gone = [name for name in listed if not (folder / name).exists()] if isinstance(listed, Mapping) else []
    problems += [f"{place}: {name} is missing, which the run left; restore it, or run again" for name in gone]
    if not tables:
        problems.append(f"{place}: holds no table; a run leaves some of {', '.join(TABLES)}")
    return Run(
        place=place,
        directory=folder,
        machine=machine,
        record=record,
        tables=tables,
        summary=_try(lambda: read_summary(folder), problems, ()) if "summary" in tables else (),
        findings=_try(lambda: read_findings(folder), problems, ()) if "findings" in tables else (),
        pictures=tuple(sorted(folder.glob("*.png"))),
        problems=tuple(problem.replace(str(folder), place).replace(str(ROOT), ".") for problem in problems),
    )


def _try(read: Any, problems: list[str], otherwise: Any) -> Any:
    """What `read` returns; what it refuses is noted, and `otherwise` stands for it."""
    try:
        return read()
    except InputError as error:
        problems.append(str(error))
        return otherwise
