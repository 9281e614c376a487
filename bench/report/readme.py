"""Tables for people: the overview that `reproduce` prints, and the tables of README.md."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.claims import coverage, findings_overview, overview, read_findings, read_summary
from bench.records import ROOT, machine_name, read_run, read_table, to_markdown
from bench.report.index import LOCAL, RESULTS
from bench.report.pages import fill_section
from dydit import InputError

README = ROOT / "README.md"


def study_answers(directory: Path) -> str:
    """The questions of a study and their answers, `questions.csv`, as a markdown table of words."""
    table = read_table(directory, "questions")
    return to_markdown(table[["question", "configurations", "answer"]])


def speed_table(directory: Path) -> str:
    """What skipping is worth, `latency.csv`, as a markdown table: realised over static, and masked over plain.

    Runs of versions without the engine `plain` have no masked over plain: the two differ by the engine, too.
    """
    table = read_table(directory, "latency")
    keys = ["model", "lambda", "batch"]
    rows = table[table["engine"] == "realised"]
    frame = rows[[*keys, "profile"]].copy()
    frame["published (V100)"] = rows["published_speedup"]
    if "over_plain" in table:
        masked = table.loc[table["engine"] == "masked", [*keys, "over_plain"]]
        frame["masked / plain"] = frame[keys].merge(masked, on=keys)["over_plain"].round(3).to_numpy()
    frame["realised / static"] = rows["speedup"].round(3)
    frame["95 % interval"] = [
        f"{low:.2f} to {high:.2f}" for low, high in zip(rows["speedup_low"], rows["speedup_high"], strict=True)
    ]
    frame["multiply-adds, static / realised"] = (1 / rows["flops_ratio"]).round(3)
    frame["efficiency"] = rows["efficiency"].round(3)
    return f"{to_markdown(frame)}\n\nHow many times as fast; {_conditions(table)}."


def _conditions(table: pd.DataFrame) -> str:
    """Where and in what a latency table was measured."""
    places = table[["device", "dtype", "resolution"]].drop_duplicates().itertuples(index=False)
    return "; ".join(f"{device}, {dtype}, {pixels} pixels" for device, dtype, pixels in places)


@dataclass(frozen=True)
class Section:
    """A part of the README that a run fills, from `<!-- NAME: begin -->` to `<!-- NAME: end -->`.

    Args:
        run: name of the run that fills it, as the options of `bench report` name runs.
        where: pattern under results/ of the table that the run is known by.
        show: what is shown of a run, in markdown.
    """

    run: str
    where: str
    show: Callable[[Path], str]


def _coverage(directory: Path) -> str:
    return coverage(read_summary(directory))


def _verdicts(directory: Path) -> str:
    return f"{overview(read_summary(directory))}\n\n{_findings(directory)}"


def _findings(directory: Path) -> str:
    return findings_overview(read_findings(directory))


SECTIONS = {
    "coverage": Section("results", "*/reproduce/summary.csv", _coverage),
    "results": Section("results", "*/reproduce/summary.csv", _verdicts),
    "speed": Section("speed", "*/latency-lambdas/latency.csv", speed_table),
    "study": Section("study", "*/small-scale/findings.csv", lambda run: f"{_findings(run)}\n\n{study_answers(run)}"),
}


def committed_run(section: str = "results", directory: Path = RESULTS) -> Path:
    """The one run under results/ that has the table of a section of the README, apart from `local`.

    Raises:
        InputError: none or several.
    """
    where = SECTIONS[section].where
    found = sorted(path.parent for path in directory.glob(where))
    runs = [run for run in found if run.relative_to(directory).parts[0] != LOCAL]
    if len(runs) != 1:
        names = ", ".join(str(run.relative_to(directory)) for run in runs) or "none"
        raise InputError(f"results: runs with {where}: {names}; choose one with --{SECTIONS[section].run} DIR")
    return runs[0]


def update_readme(directory: Path, section: str = "results", check: bool = False, readme: Path = README) -> bool:
    """Put the tables of `directory` between README's markers of a section; True if they stood there already.

    Raises:
        InputError: no table or record in the directory, or no README with markers.
    """
    record = read_run(directory)
    file = f"{os.path.relpath(directory, readme.parent)}/{Path(SECTIONS[section].where).name}"
    source = f"From [{file}]({file}), made by `{record['command']}` at commit {str(record['commit'])[:12]}"
    if judged := record.get("judged"):
        source += f" and judged by `{judged['command']}` at commit {str(judged['commit'])[:12]}"
    source += f" on {machine_name(record)}."
    return fill_section(readme, section, f"{SECTIONS[section].show(directory)}\n\n{source}", check)
