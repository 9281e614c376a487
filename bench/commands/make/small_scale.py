"""`python -m bench small-scale`: a study's models, trained from nothing; those of the digits scored and judged, too."""

from __future__ import annotations

from bench.claims.summary import overview
from bench.studies.run import StudyOptions, prepare_study, score_study, train_study

OPTIONS = StudyOptions


def run(options: StudyOptions) -> None:
    """Train the study, and score it where it is the one on digits."""
    job = prepare_study(options)
    trained = train_study(job, options)
    print(f"trained files in {job.models}; {job.next_command}")
    if job.scored:
        rows = score_study(job, trained)
        if rows:
            print(overview(rows))
        print(f"tables in {job.out}")
