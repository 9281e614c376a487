"""What README.md, results/README.md and docs/ show of committed runs: sentences, bullets and tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.claims import findings_overview, read_findings, read_summary
from bench.records import ROOT, clear_content_errors, machine_name, read_run, read_table, to_markdown
from bench.report import words
from bench.report.index import LOCAL, RESULTS
from bench.report.pages import fill_section
from bench.report.scoreboard import score_lines
from dydit import InputError

README = ROOT / "README.md"
RUNS = {
    "results": "*/reproduce/summary.csv",
    "speed": "*/latency-lambdas/latency.csv",
    "speed_bf16": "*/latency-bf16/latency.csv",
    "study": "*/small-scale/findings.csv",
    "clothes": "*/fashion/findings.csv",
}
"""The runs that pages show, as the options of `bench report` name them: pattern under results/ of a table of each."""
Runs = Mapping[str, Path]


def study_answers(directory: Path) -> str:
    """The questions of a study and their answers, `questions.csv`, as a markdown table of words."""
    table = read_table(directory, "questions")
    return to_markdown(table[["question", "configurations", "answer"]])


def speed_table(directory: Path) -> str:
    """What skipping is worth, `latency.csv`, as a markdown table: realised over the fastest static, masked over plain.

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
    if "base" in table:  # runs of earlier versions were held against this project's static engine alone
        frame["fastest static"] = rows["base"]
    frame["realised / fastest static" if "base" in table else "realised / static"] = rows["speedup"].round(3)
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
    """A part of a page, from `<!-- NAME: begin -->` to `<!-- NAME: end -->`.

    Args:
        page: its file, from the root of the checkout.
        run: name of the run among `RUNS` that it shows, and whose source it names; empty: several.
        show: what is shown, in markdown.
    """

    page: str
    run: str
    show: Callable[[Runs], str]


def _bullets(runs: Runs) -> str:
    return words.bullets(runs["results"], [runs["speed"], runs["speed_bf16"]], other_findings(runs))


def _findings(directory: Path) -> str:
    return findings_overview(read_findings(directory))


def _study(directory: Path) -> str:
    return f"{_findings(directory)}\n\n{study_answers(directory)}"


_FRONT, _FULL = "README.md", "results/README.md"
SECTIONS = {
    "measured": Section(_FRONT, "", lambda runs: words.measured(read_summary(runs["results"]))),
    "findings": Section(_FRONT, "", _bullets),
    "duration": Section(_FRONT, "", lambda runs: words.duration(runs["results"])),
    "scoreboard": Section(_FRONT, "", lambda runs: score_lines(read_summary(runs["results"]), _FULL)),
    "conventions": Section("docs/protocol.md", "", lambda runs: words.conventions(runs["results"])),
    "tables": Section(_FULL, "results", lambda runs: words.published_tables(read_summary(runs["results"]))),
    "tried": Section(_FULL, "results", lambda runs: _findings(runs["results"])),
    "speed": Section(_FULL, "speed", lambda runs: speed_table(runs["speed"])),
    "speed_bf16": Section(_FULL, "speed_bf16", lambda runs: speed_table(runs["speed_bf16"])),
    "study": Section(_FULL, "study", lambda runs: _study(runs["study"])),
    "clothes": Section(_FULL, "clothes", lambda runs: _study(runs["clothes"])),
}


def committed_run(name: str = "results", directory: Path = RESULTS) -> Path:
    """The one run under results/ that has the table by which `RUNS` knows it, apart from `local`.

    Raises:
        InputError: none or several.
    """
    where = RUNS[name]
    found = sorted(path.parent for path in directory.glob(where))
    runs = [run for run in found if run.relative_to(directory).parts[0] != LOCAL]
    if len(runs) != 1:
        names = ", ".join(str(run.relative_to(directory)) for run in runs) or "none"
        raise InputError(f"results: runs with {where}: {names}; choose one with --{name} DIR")
    return runs[0]


def other_findings(runs: Runs, directory: Path = RESULTS) -> list[Path]:
    """Every run with findings: those that were chosen, then all other committed ones."""
    committed = sorted(path.parent for path in directory.glob("*/*/findings.csv"))
    kept = [run for run in committed if run.relative_to(directory).parts[0] != LOCAL]
    judged = ("results", "study", "clothes")
    chosen = [runs[name] for name in judged if (runs[name] / "findings.csv").is_file()]
    replaced = {path.parent for name in judged for path in directory.glob(RUNS[name])}
    return [*chosen, *(run for run in kept if run not in replaced and run not in chosen)]


def update_section(runs: Runs, name: str, check: bool = False, root: Path = ROOT) -> bool:
    """Put what a section shows between its markers; True if it stood there already.

    Args:
        runs: the run of every name in `RUNS`.
        name: of the section.
        check: change nothing.
        root: of the pages.

    Raises:
        InputError: no table or record in a run, or no page with markers.
    """
    section = SECTIONS[name]
    page = root / section.page
    with clear_content_errors(runs[section.run] if section.run else runs["results"]):
        text = section.show(runs)
        if section.run:
            text += f"\n\n{_source(runs[section.run], RUNS[section.run], page)}"
    return fill_section(page, name, text, check)


def _source(directory: Path, where: str, page: Path) -> str:
    """Which file a section is from, and which command made it where."""
    record = read_run(directory)
    file = f"{os.path.relpath(directory, page.parent)}/{Path(where).name}"
    source = f"From [{file}]({file}), made by `{record['command']}` at commit {str(record['commit'])[:12]}"
    if judged := record.get("judged"):
        source += f" and judged by `{judged['command']}` at commit {str(judged['commit'])[:12]}"
    return source + f" on {machine_name(record)}."
