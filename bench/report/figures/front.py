"""The figure of README.md: speed-up against work, a file that says of which data it was drawn."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench.records import ROOT, whole_file
from bench.report.figures.drawing import svg_file
from bench.report.figures.speed import LATENCY, speedup_front
from bench.report.index import RESULTS
from bench.report.runs import load_runs, run_folders
from dydit import InputError

PICTURE = ROOT / "docs" / "speedup.svg"


def update_picture(check: bool = False, results: Path = RESULTS, path: Path = PICTURE) -> bool:
    """Write the figure of README.md; True if it shows these runs already.

    A hash of the data in its first line tells: another version of matplotlib draws other bytes.

    Args:
        check: change nothing.
        results: the folder of committed runs.
        path: of the figure.

    Raises:
        InputError: no run has its data, or it cannot be written.
    """
    drawing = speedup_front(load_runs(run_folders(results), results))
    if drawing is None:
        raise InputError(f"results: no run for {path.name}; time one with `{LATENCY}`")
    shown = hashlib.sha256(drawing.data.to_csv(index=False).encode()).hexdigest()
    current = path.is_file() and f"<!-- data {shown} -->" in path.read_text(encoding="utf-8")[:400]
    if not current and not check:
        text = svg_file(drawing, "white")
        with whole_file(path) as partial:
            partial.write_text(f"<!-- data {shown} -->\n{text[text.index('<svg') :]}", encoding="utf-8")
    return current
