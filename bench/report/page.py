"""The report page: one HTML file that holds everything it shows, from runs in whatever state they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.claims import SummaryRow, coverage
from bench.records import PACKAGE, take_directory, whole_file
from bench.report.answers import answers
from bench.report.figures.catalogue import draw_all
from bench.report.figures.pictures import pictures
from bench.report.index import RESULTS
from bench.report.runs import Run, guarded, latest_rows, load_runs
from bench.report.scoreboard import deviating, scores
from bench.report.sections import details_section, findings_sections, provenance_table, published_sections
from bench.report.tables import Table, csv_address, score_table

PAGE = RESULTS / "report.html"
CACHE = RESULTS / "local" / "figures"
TEMPLATES = PACKAGE / "report" / "templates"


def write_page(folders: Iterable[Path], page: Path = PAGE, results: Path = RESULTS) -> Path:
    """Build the page of these run folders.

    Args:
        folders: of runs; what is wrong with one is said on the page.
        page: the file to write.
        results: the folder that committed runs are named from.

    Raises:
        InputError: the file cannot be written, or another run is writing it.
    """
    with take_directory(page.parent, [page.name], page.name):
        html = render(load_runs(folders, results), CACHE if PAGE.parent.is_dir() else None)
        with whole_file(page) as partial:
            partial.write_text(html, encoding="utf-8")
    return page


def render(runs: Sequence[Run], cache: Path | None = None) -> str:
    """The page as text; `cache` is the folder of figures that were drawn before."""
    import jinja2

    problems = [problem for run in runs for problem in run.problems]
    if not runs:
        problems.append("no run at all: measure one with `python -m nox -s reproduce`")
    rows = latest_rows(runs)
    drawn, missing = draw_all(runs, problems, cache)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    published = published_sections(runs, rows)
    return environment.get_template("report.html.j2").render(
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
        problems=problems,
        headline=coverage(rows) if rows else "",
        tiles=_tiles(rows),
        deviating=deviating(rows),
        answers=guarded(lambda: answers(runs), problems, []),
        scoreboard=score_table(rows, {section.title: section.anchor for section in published}) if rows else None,
        published=published,
        findings=findings_sections(runs),
        figures=[
            (each, svg, csv_address(each.data), Table.unless_long(each.data, f"{each.kind.title}: all that is drawn"))
            for each, svg in drawn
        ],
        pictures=list(pictures(runs)),
        missing=missing,
        details=[details_section(run) for run in runs],
        provenance=provenance_table(runs),
    )


def _tiles(rows: Sequence[SummaryRow]) -> list[tuple[str, int, str]]:
    """(words, count, class) of the three verdicts."""
    found = scores(rows)
    return [
        ("reproduced", sum(score.reproduced for score in found), "good"),
        ("deviate", sum(score.deviates for score in found), "bad"),
        ("not run", sum(score.not_run for score in found), "open"),
    ]
