"""Headline numbers of the committed runs of a machine, over the commits that changed them."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bench.machine import track
from bench.records import ROOT, parse_table
from bench.report.figures.drawing import Drawing, Kind, figure, look
from bench.report.index import RESULTS
from dydit import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ["machine", "run", "number", "value", "date", "commit"]
TARGET = 0.5
HISTORY = Kind("history", "Headline numbers over commits", "python -m bench history --out DIR")
"""The lambda that the paper's abstract speaks of."""
_TABLES = ("summary", "findings", "latency")


def history(machine: str | None = None, results: Path = RESULTS, root: Path = ROOT) -> pd.DataFrame:
    """One row for each headline number of each committed version of each run, by date of its measurement.

    Args:
        machine: folder of results/; None: all.
        results: the folder of committed runs.
        root: of the checkout.

    Raises:
        InputError: no checkout, no such machine, or no committed run.
    """
    if _git(root, "rev-parse", "--show-toplevel") is None:
        raise InputError(f"history {root}: not a git checkout; clone the project, with its history")
    where = results / machine if machine else results
    if not where.is_dir():
        there = ", ".join(sorted(path.name for path in results.glob("*") if path.is_dir())) or "none"
        raise InputError(f"history: no machine {machine} in results; there are: {there}")
    listed = _git(root, "ls-files", where.relative_to(root).as_posix()) or ""
    files = [Path(line) for line in listed.splitlines() if Path(line).name in {f"{name}.csv" for name in _TABLES}]
    rows = [row for file in track(files, "reading committed runs") for row in _versions(file, root)]
    if not rows:
        raise InputError(f"history: no committed run with {', '.join(_TABLES)} in {where.relative_to(root)}")
    frame = pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(["machine", "run", "number", "date", "commit"])
    return frame.sort_values(["machine", "run", "number", "date"], ignore_index=True)


def _versions(file: Path, root: Path) -> Iterator[tuple[str, str, str, float, str, str]]:
    """The headline numbers of every committed version of a table, dated by the record beside it."""
    for commit in (_git(root, "log", "--format=%H", "--", file.as_posix()) or "").split():
        text, record = (_git(root, "show", f"{commit}:{path.as_posix()}") for path in (file, file.parent / "run.json"))
        if text is None or record is None:
            continue
        try:
            table = parse_table(io.StringIO(text))
            facts = json.loads(record)
            date, made = str(facts["started"])[:16], str(facts["commit"])[:12]
        except (ValueError, KeyError, TypeError):
            continue  # a version that no reader could read either
        for number, value in _headlines(file.stem, table):
            yield file.parent.parent.name, file.parent.name, number, value, date, made


def _headlines(name: str, table: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """(number, value) of a table of any version; columns that it lacks give nothing."""
    if name in ("summary", "findings") and "verdict" in table:
        for verdict, count in table["verdict"].value_counts().sort_index().items():
            yield f"{name}: {verdict}", float(count)
    needed = {"model", "lambda", "batch", "engine", "profile", "speedup", "resolution"}
    if name == "latency" and needed <= set(table):
        rows = table[(table["engine"] == "realised") & (table["lambda"] == TARGET) & (table["profile"] == "even")]
        for row in rows.to_dict("records"):
            place = f"{row['model']} at {row['resolution']}, batch {row['batch']}"
            yield f"realised / static, lambda {TARGET}: {place}", float(row["speedup"])


def drawing(frame: pd.DataFrame) -> Drawing:
    """The history as a figure, a panel for verdicts and one for speed-ups."""
    spans = frame.groupby("number")["value"].agg(["min", "max"])
    alt = f"{len(spans)} headline numbers over {frame['commit'].nunique()} measured commits, from "
    alt += f"{frame['date'].min()[:10]} to {frame['date'].max()[:10]}."
    return Drawing(HISTORY, frame, _draw, alt, "", ())


def _draw(frame: pd.DataFrame) -> Figure:
    speed = frame["number"].str.startswith("realised")
    kinds: Sequence[tuple[str, pd.DataFrame]] = [
        (title, rows) for title, rows in (("verdicts", frame[~speed]), ("realised / static", frame[speed])) if len(rows)
    ]
    drawn = figure(11.0, 3.6 * len(kinds))
    axes = drawn.subplots(len(kinds), 1, squeeze=False)[:, 0]
    when = sorted(set(zip(frame["date"], frame["commit"], strict=True)))
    ticks = {key: place for place, key in enumerate(when)}
    machines = frame["machine"].nunique()
    for ax, (title, rows) in zip(axes, kinds, strict=True):
        for number, ((machine, run, name), own) in enumerate(rows.groupby(["machine", "run", "number"], sort=False)):
            places = [ticks[key] for key in zip(own["date"], own["commit"], strict=True)]
            colour, marker = look(number)
            label = f"{run}: {str(name).split(': ')[-1]}" + (f" ({machine})" if machines > 1 else "")
            ax.plot(places, own["value"], f"{marker}-", color=colour, markersize=4, label=label)
        ax.set_title(title)
        ax.set_xlim(-0.5, len(ticks) - 0.5)
        ax.set_xticks(range(len(ticks)), [f"{date[5:10]}, {commit[:7]}" for date, commit in ticks])
        ax.tick_params("x", labelsize=7, rotation=60)
        ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return drawn


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, encoding="utf-8", errors="replace"
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
