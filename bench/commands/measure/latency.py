"""`python -m bench latency`: static, plain, masked and realised inference in turns."""

from __future__ import annotations

from bench.latency.run import LatencyRunOptions, run_latency
from bench.records import to_markdown

OPTIONS = LatencyRunOptions


def run(options: LatencyRunOptions) -> None:
    """Time what the options say."""
    print(to_markdown(run_latency(options)))
