"""`python -m bench small-scale`: a study's models, planned, or trained from nothing, scored and judged."""

from __future__ import annotations

from bench.claims import findings_overview
from bench.records import to_markdown
from bench.studies.findings import judge_again
from bench.studies.run import StudyOptions, plan_study, prepared_study, score_study, train_study

OPTIONS = StudyOptions


def run(options: StudyOptions) -> None:
    """Train the study, and score it where it has its own classifier; or plan it, or judge a finished run again."""
    if options.judge is not None:
        options.refuse(vars(options).keys() - {"judge"}, "--judge reads a finished run")
        print(findings_overview(judge_again(options.judge)))
        return
    with prepared_study(options) as job:
        if options.plan:
            print(to_markdown(plan_study(job, options)))
            return
        trained = train_study(job, options)
        print(f"trained files in {job.models}; {job.next_command}")
        if job.scored:
            findings = score_study(job, trained)
            if findings:
                print(findings_overview(findings))
            print(f"tables in {options.out}")
