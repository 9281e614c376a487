"""`python -m bench history`: headline numbers over the committed runs, by date and commit."""

from __future__ import annotations

from dataclasses import dataclass

from bench.options import OutputOptions, option
from bench.records import take_directory, to_markdown, whole_file, write_table
from bench.report.comparing.history import drawing, history
from bench.report.figures.drawing import svg_file


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(OutputOptions):
    """Whose history."""

    machine: str | None = option(None, metavar="NAME", help="a folder of results/, if not all machines")


OPTIONS = HistoryOptions


def run(options: HistoryOptions) -> None:
    """Write history.csv and history.svg, and print the table."""
    directory, frame = options.out, history(options.machine)
    with take_directory(directory):
        write_table(frame, directory, "history")
        with whole_file(directory / "history.svg") as partial:
            partial.write_text(svg_file(drawing(frame), "white"), encoding="utf-8")
    print(to_markdown(frame))
    print(f"\n{len(frame)} rows in {directory}/history.csv, drawn in history.svg")
