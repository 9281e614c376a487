"""`python -m bench small-scale`: a study's models, trained from nothing; those of the digits scored and judged, too."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

from dydit import InputError

HELP = (
    "train a study from nothing: the digits (more than an hour on 2 cores), or CIFAR-10 (needs a GPU and the data set)"
)
OUT = Path("results/local/small-scale")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--dataset", default="digits", metavar="NAME", help="digits or cifar10")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="files of the data set, where it is not fetched")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--models", type=Path, metavar="DIR", help="of the trained files (default: OUT/models)")
    parser.add_argument(
        "--stages", nargs="+", metavar="NAME", help="only these and what they start from, such as dydit-m-0.5-s1"
    )
    parser.add_argument("--shorten", type=int, default=1, metavar="N", help="divide every step count, for a trial")
    parser.add_argument(
        "--judge",
        type=Path,
        metavar="DIR",
        help="train nothing; judge the finished run in DIR again, from its runs.csv",
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="stages trained at once (default: one a core, one on a GPU)"
    )


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench.claims import findings_overview
    from bench.records import environment_record, prepare_output, write_run, write_table
    from bench.studies.catalogue import find_study
    from bench.studies.findings import judge_again, judge_study
    from bench.studies.scores import IMAGES, score_all
    from bench.studies.train import train_all

    for name in ("shorten", "processes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}; give a whole number from 1")
    if options.judge is not None:
        print(findings_overview(judge_again(options.judge)))
        return
    study = find_study(options.dataset)
    chosen = study.only(options.stages) if options.stages else study
    out = prepare_output(options.out)
    models = prepare_output(options.models or out / "models")
    processes = options.processes or (_cores() if options.device == "cpu" else 1)
    record = environment_record(processes=processes, stages=len(chosen.stages), images=IMAGES)
    clock = [time.monotonic()]
    shortened = chosen.shortened(options.shorten)
    made = train_all(shortened, models, processes=processes, device=options.device, data_root=options.data_root)
    clock.append(time.monotonic())
    print(f"trained files in {models}; {_next(study.name, study.extractor, models)}")
    if study.name != "digits":
        return
    frame = score_all(chosen, models, processes=processes)
    clock.append(time.monotonic())
    training, scoring = (round(after - before) for before, after in itertools.pairwise(clock))
    write_table(frame, out, "runs")
    if chosen is study:
        print(findings_overview(judge_study(frame, out)))
    write_run(record | {"trained": made, "seconds": {"training": training, "scoring": scoring}}, out)
    print(f"tables in {out}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _next(name: str, extractor: str, models: Path) -> str:
    if name == "digits":
        return f"judge them with: python -m bench reproduce --checkpoints {models}"
    return (
        f"draw from one with: python -m bench generate --checkpoint {models}/dydit-0.5.safetensors --images 50000 "
        f"--out SAMPLES\nand score it with: python -m bench quality --samples SAMPLES --reference {name} "
        f"--extractor {extractor}"
    )
