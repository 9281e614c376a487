"""`python -m bench plan`: the cost of a long run, and what it lacks, before it starts."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.commands.make import generate

HELP = "tell what a `generate` run will cost and what it lacks: its options, and how it will be scored"
OUT = Path("results/local/plan")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: those of `generate`, and the plan's own."""
    generate.arguments(parser)
    parser.add_argument(
        "--samples", type=Path, metavar="DIR", default=generate.OUT, help="--out of the run (its default else)"
    )
    parser.add_argument(
        "--lambda", dest="target", type=float, metavar="L", help="of a DyDiT whose weights are not here"
    )
    parser.add_argument("--gpus", nargs="+", type=int, metavar="N", default=[1, 8, 64], help="default 1 8 64")
    parser.add_argument("--rate", type=float, metavar="R", help="images/s of one device, instead of measuring it here")
    parser.add_argument("--reference", metavar="NAME", help="what the images will be compared with; none by default")
    parser.add_argument("--extractor", default="inception-v3-compat", help="of the scoring")
    parser.add_argument("--extractor-weights", type=Path, metavar="FILE", help="if not where the extractor looks")
    parser.add_argument("--weights-sha256", metavar="HEX", help="accept extractor weights of this SHA-256")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="directory of data sets and downloaded files")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 when something is missing")


def run(options: argparse.Namespace) -> int:
    """Do what the options say; the exit status."""
    import dataclasses

    from bench.generation.job import GenerationOptions
    from bench.records import environment_record, prepare_output, to_markdown
    from bench.reproduction.plan import Scoring, make_plan, write_plan
    from bench.reproduction.requirements import requirements_table

    directory = prepare_output(options.out)
    fields = [field.name for field in dataclasses.fields(GenerationOptions) if field.name != "out"]
    values = {name: getattr(options, name) for name in fields} | {"out": options.samples}
    scoring = Scoring(
        options.reference, options.extractor, options.extractor_weights, options.weights_sha256, options.data_root
    )
    record = environment_record()
    made = make_plan(values, scoring, devices=options.gpus, rate=options.rate, target=options.target)
    write_plan(made, record, directory)
    print(to_markdown(made.costs))
    print(f"\n{to_markdown(requirements_table(made.needs))}\n")
    print(f"{len(made.missing)} of {len(made.needs)} needs are missing" if made.missing else "nothing is missing")
    return int(options.strict and bool(made.missing))
