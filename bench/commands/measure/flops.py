"""`python -m bench flops`: FLOPs and parameters at true scale."""

from __future__ import annotations

from bench.claims import any_deviates, overview
from bench.flops.run import FlopsOptions, measure_flops

OPTIONS = FlopsOptions


def run(options: FlopsOptions) -> int:
    """Count and judge; the exit status."""
    rows = measure_flops(options)
    print(overview(rows))
    return int(options.strict and any_deviates(rows))
