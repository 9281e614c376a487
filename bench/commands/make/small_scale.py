"""`python -m bench small-scale`: a study's models, trained from nothing; those of the digits scored and judged, too."""

from __future__ import annotations

from bench.claims import findings_overview
from bench.studies.findings import judge_again
from bench.studies.run import StudyOptions, prepared_study, score_study, train_study

OPTIONS = StudyOptions


def run(options: StudyOptions) -> None:
    """Train the study, and score it where it is the one on digits; or judge a finished run again."""
    if options.judge is not None:
        print(findings_overview(judge_again(options.judge)))
        return
    with prepared_study(options) as job:
        trained = train_study(job, options)
        print(f"trained files in {job.models}; {job.next_command}")
        if job.scored:
            findings = score_study(job, trained)
            if findings:
                print(findings_overview(findings))
            print(f"tables in {options.out}")
