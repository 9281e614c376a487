"""Tables for people: the overview that `reproduce` prints, and the tables of README.md."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench import environment, results
from bench.verdict import VERDICTS, SummaryRow
from dydit.errors import InputError
from dydit.files import atomic_path

README = environment.ROOT / "README.md"


def overview(rows: Sequence[SummaryRow]) -> str:
    """The judged rows as a markdown table, and how many rows have which verdict."""
    judged = [row for row in rows if row.verdict != "not run"]
    frame = pd.DataFrame(
        [
            {
                "source": row.paper_table,
                "row": row.row,
                "metric": f"{row.metric} ({row.unit})" if row.unit else row.metric,
                "published": row.published,
                "measured": _short(row.measured),
                "tolerance": row.tolerance.split(" (")[0],
                "verdict": row.verdict,
                "evidence": row.evidence,
            }
            for row in judged
        ]
    )
    counts = Counter(row.verdict for row in rows)
    totals = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    return f"{results.to_markdown(frame)}\n\n{len(rows)} published numbers and claims: {totals}."


def answers(directory: Path) -> str:
    """The questions of a study and their answers, `questions.csv`, as a markdown table of words."""
    table = results.read_table(directory, "questions")
    return results.to_markdown(table[["question", "configurations", "answer"]])


def speeds(directory: Path) -> str:
    """What skipping is worth, `latency.csv`: masked and realised beside the static model, as a markdown table."""
    table = results.read_table(directory, "latency")
    keys = ["model", "lambda", "batch"]
    masked = table.loc[table["engine"] == "masked", [*keys, "speedup"]].rename(columns={"speedup": "masked"})
    rows = table[table["engine"] == "realised"].merge(masked, on=keys)
    frame = rows[[*keys, "profile"]].copy()
    frame["published (V100)"] = rows["published_speedup"]
    frame["masked"] = rows["masked"].round(3)
    frame["realised"] = rows["speedup"].round(3)
    frame["95 % interval"] = [
        f"{low:.2f} to {high:.2f}" for low, high in zip(rows["speedup_low"], rows["speedup_high"], strict=True)
    ]
    frame["limit"] = rows["limit"].round(3)
    frame["efficiency"] = rows["efficiency"].round(3)
    return f"{results.to_markdown(frame)}\n\nTimes as fast as the static model; {_conditions(table)}."


def _conditions(table: pd.DataFrame) -> str:
    """Where and in what a latency table was measured."""
    places = table[["device", "dtype", "resolution"]].drop_duplicates().itertuples(index=False)
    return "; ".join(f"{device}, {dtype}, {pixels} pixels" for device, dtype, pixels in places)


@dataclass(frozen=True)
class Section:
    """A part of the README that a run fills, from `<!-- NAME: begin -->` to `<!-- NAME: end -->`.

    Args:
        where: pattern under results/ of the table that tells the run.
        show: what stands of a run, in markdown.
    """

    where: str
    show: Callable[[Path], str]


def _verdicts(directory: Path) -> str:
    return overview(results.read_summary(directory))


SECTIONS = {
    "results": Section("*/summary.csv", _verdicts),
    "speed": Section("*/latency-lambdas/latency.csv", speeds),
    "study": Section("*/small-scale/summary.csv", lambda run: f"{_verdicts(run)}\n\n{answers(run)}"),
}


def committed_run(section: str = "results", directory: Path = environment.ROOT / "results") -> Path:
    """The one run under results/ that has the table of a section of the README, apart from `local`.

    Raises:
        InputError: none or several.
    """
    where = SECTIONS[section].where
    found = sorted(path.parent for path in directory.glob(where))
    runs = [run for run in found if run.relative_to(directory).parts[0] != "local"]
    if len(runs) != 1:
        names = ", ".join(str(run.relative_to(directory)) for run in runs) or "none"
        raise InputError(f"results: runs with {where}: {names}; choose one with --{section} DIR")
    return runs[0]


def update_readme(directory: Path, section: str = "results", check: bool = False, readme: Path = README) -> bool:
    """Put the tables of `directory` between README's markers of a section; True if they stood there already.

    Raises:
        InputError: no table or record in the directory, or no markers in the README.
    """
    text = readme.read_text(encoding="utf-8")
    begin, end = (f"<!-- {section}: {word} -->" for word in ("begin", "end"))
    if begin not in text or end not in text:
        raise InputError(f"{readme.name}: markers {begin} and {end} not found; put them where the table belongs")
    record = results.read_run(directory)
    file = f"{os.path.relpath(directory, readme.parent)}/{Path(SECTIONS[section].where).name}"
    source = (
        f"From [{file}]({file}), made by `{record['command']}` at commit "
        f"{str(record['commit'])[:12]} on {environment.machine_name(record)}."
    )
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    wanted = f"{head}{begin}\n{SECTIONS[section].show(directory)}\n\n{source}\n{end}{tail}"
    if wanted == text:
        return True
    if not check:
        with atomic_path(readme) as partial:
            partial.write_text(wanted, encoding="utf-8")
    return False


def _short(value: float | None) -> float | None:
    """Five significant digits: as many as the tolerances need."""
    return None if value is None else float(f"{value:.5g}")
