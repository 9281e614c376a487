"""`python -m bench latency`: static, masked and realised inference in turns."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "time static, masked and realised inference in turns"
OUT = Path("results/local")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--models", nargs="+", metavar="NAME", default=["DiT-S/2", "DiT-B/2"], help="such as DiT-B/2")
    parser.add_argument("--lambdas", nargs="+", type=float, metavar="L", help="the paper's by default")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2, 4, 8], help="images; guidance doubles the rows")
    parser.add_argument("--profiles", nargs="+", metavar="P", help="even, width-heavy, token-heavy; all by default")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="fp32", help="fp32 or bf16")
    parser.add_argument("--resolution", nargs="+", type=int, default=[256], help="pixels, such as 256 512")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--seconds", type=float, default=30.0, help="time to spend on one model and batch")
    parser.add_argument("--run-steps", type=int, default=5, help="sampling steps measured for s/image; 250 is all")
    parser.add_argument("--graphs", action="store_true", help="capture static and realised forwards as CUDA graphs")
    parser.add_argument("--diffusers", action="store_true", help="time diffusers' DiT with the same weights, too")
    parser.add_argument("--profile", action="store_true", help="break a forward into its parts instead of timing runs")
    parser.add_argument(
        "--growth", nargs="+", type=Path, metavar="DIR", help="time nothing; join finished runs into latency_growth.csv"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and routing")


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench.latency import synthetic_routing
    from bench.latency.cases import LatencyOptions
    from bench.latency.measure import measure_breakdown, measure_latency
    from bench.latency.tables import write_growth
    from bench.machine import Budget
    from bench.records import prepare_output, to_markdown

    if options.growth:
        print(to_markdown(write_growth(options.growth, prepare_output(options.out))))
        return
    plans = [
        LatencyOptions(
            models=options.models,
            lambdas=options.lambdas,
            batch=options.batch,
            device=options.device,
            dtype=options.dtype,
            profiles=options.profiles or synthetic_routing.PROFILES,
            resolution=resolution,
            seed=options.seed,
            threads=options.threads,
            run_steps=options.run_steps,
            graphs=options.graphs,
            diffusers=options.diffusers,
            budget=Budget(seconds=options.seconds),
        )
        for resolution in options.resolution
    ]
    directory = prepare_output(options.out)
    if options.profile:
        print(to_markdown(measure_breakdown(plans[0], directory)))
        return
    frame = measure_latency(plans, directory)
    shown = [
        "model",
        "resolution",
        "lambda",
        "batch",
        "engine",
        "profile",
        "ms_median",
        "speedup",
        "limit",
        "efficiency",
    ]
    print(to_markdown(frame[[*shown, "published_speedup"]]))
