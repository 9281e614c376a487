"""`python -m bench plan`: the cost of a long run, and what it lacks, before it starts."""

from __future__ import annotations

from bench.records import environment_record, take_results, to_markdown
from bench.reproduction.plan import PlanOptions, make_plan, write_plan
from bench.reproduction.requirements import requirements_table

OPTIONS = PlanOptions


def run(options: PlanOptions) -> int:
    """Plan the run; the exit status."""
    with take_results(options.out) as results:
        record = environment_record()
        made = make_plan(options)
        write_plan(made, record, results)
    print(to_markdown(made.costs))
    print(f"\n{to_markdown(requirements_table(made.needs))}\n")
    print(f"{len(made.missing)} of {len(made.needs)} needs are missing" if made.missing else "nothing is missing")
    return int(options.strict and bool(made.missing))
