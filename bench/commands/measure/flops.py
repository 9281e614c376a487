"""`python -m bench flops`: FLOPs and parameters at true scale, or what a network of your own executes."""

from __future__ import annotations

from bench.claims import any_deviates, overview
from bench.flops.run import FlopsOptions, measure_candidate, measure_flops
from bench.models import is_factory
from bench.records import to_markdown

OPTIONS = FlopsOptions


def run(options: FlopsOptions) -> int:
    """Count and judge; the exit status."""
    if is_factory(options.model):
        print(to_markdown(measure_candidate(options)))
        return 0
    rows = measure_flops(options)
    print(overview(rows))
    return int(options.strict and any_deviates(rows))
