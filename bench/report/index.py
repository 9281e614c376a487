"""The index of all committed runs, which stands in `results/README.md`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import ROOT, machine_name, read_run, to_markdown
from bench.report.pages import fill_section
from dydit import InputError

RESULTS = ROOT / "results"
LOCAL = "local"
"""The folder of results/ for runs that are not committed."""
TABLES = {
    "summary": "verdicts",
    "findings": "findings",
    "flops": "FLOPs",
    "parameters": "parameters",
    "quality": "quality of images",
    "drift": "drift from another model",
    "latency": "time of each engine",
    "latency_growth": "growth of time with batch and tokens",
    "latency_profile": "time of each part of a forward",
    "quality_speed": "speed of scores beside torch-fidelity",
    "routing_timesteps": "routing by timestep",
    "routing_layers": "routing by layer",
    "routing_classes": "routing by class",
    "means": "scores of trained models",
    "plan": "expected hours of trainings",
    "questions": "answers to questions",
    "methods": "methods side by side",
}
"""What a run measured, by the names of its tables."""


def committed_runs(results: Path = RESULTS) -> list[Path]:
    """The folders MACHINE/RUN of all runs under results/, in the order of their names, apart from `local`.

    Raises:
        InputError: a run that lies elsewhere than in MACHINE/RUN, or under the name of another machine.
    """
    machines = [folder for folder in results.glob("*") if folder.name != LOCAL]
    runs = sorted(record.parent for folder in machines for record in folder.rglob("run.json"))
    for run in runs:
        place, machine = run.relative_to(results), machine_name(read_run(run), run / "run.json")
        if len(place.parts) != 2 or place.parts[0] != machine:
            raise InputError(f"results: the run in {place} was measured on {machine}; move it to {machine}/RUN")
    return runs


def index_of_runs(results: Path = RESULTS) -> str:
    """All committed runs as a markdown table, one row for each.

    Raises:
        InputError: a run outside of MACHINE/RUN, or one without a known table.
    """
    facts = ("started", "commit", "dirty", "command")
    return to_markdown(pd.DataFrame([_row(run, read_run(run, *facts)) for run in committed_runs(results)]))


def _row(run: Path, record: Mapping[str, Any]) -> dict[str, str]:
    place = f"{run.parent.name}/{run.name}"
    tables = [f"[{words}]({place}/{table}.md)" for table, words in TABLES.items() if (run / f"{table}.md").is_file()]
    if not tables:
        raise InputError(f"results: {place} has none of the tables {', '.join(TABLES)}; remove it, or name its table")
    return {
        "machine": run.parent.name,
        "run": f"[{run.name}]({place}/run.json)",
        "what it measured": ", ".join(tables),
        "date": str(record["started"])[:10],
        "commit": str(record["commit"])[:12] + (" and changes" if record["dirty"] else ""),
        "command": f"`{record['command']}`",
    }


def update_index(check: bool = False, results: Path = RESULTS) -> bool:
    """Put the index between the markers of `results/README.md`; True if it stood there already.

    Args:
        check: change nothing.
        results: the folder of all runs.

    Raises:
        InputError: see `index_of_runs`, or no such page, or one without markers.
    """
    return fill_section(results / "README.md", "runs", index_of_runs(results), check)
