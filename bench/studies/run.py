"""The whole of `bench small-scale`: a study checked, trained, and, where it is the one on digits, scored and judged."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.claims import Finding
from bench.options import STEPS, THREADS, DataOptions, DeviceOptions, OutputOptions, option
from bench.records import environment_record, prepare_output, write_run, write_table
from bench.studies.catalogue import DIGITS, Study, find_study
from bench.studies.findings import judge_study
from bench.studies.scores import IMAGES, quarters_table, score_all
from bench.studies.train import train_all


@dataclass(frozen=True, kw_only=True)
class StudyOptions(DeviceOptions, DataOptions, OutputOptions):
    """Which study to train, and how much of it."""

    out: Path = Path("results/local/small-scale")
    dataset: str = option("digits", metavar="NAME", help="digits, fashion or cifar10")
    models: Path | None = option(None, metavar="DIR", help="of the trained files (default: OUT/models)")
    stages: Sequence[str] | None = option(
        None, metavar="NAME", help="only these and what they start from, such as dydit-m-0.5-s1"
    )
    shorten: int = option(1, metavar="N", help="divide every step count, for a trial", within=STEPS)
    judge: Path | None = option(
        None, metavar="DIR", help="train nothing; judge the finished run in DIR again, from its runs.csv"
    )
    processes: int | None = option(
        None, metavar="N", help="stages trained at once (default: one per core, one on a GPU)", within=THREADS
    )


@dataclass(frozen=True)
class StudyJob:
    """A study that may begin: `stages` of `study`, directories that can be written, and the record of the run."""

    study: Study
    stages: Study
    out: Path
    models: Path
    processes: int
    data_root: Path | None
    record: dict[str, Any]

    @property
    def scored(self) -> bool:
        """Whether the study has an extractor of its own, and its models are scored and judged here."""
        return self.study.classifier is not None

    @property
    def next_command(self) -> str:
        """What to do with the trained files."""
        if self.study.name == DIGITS.name:
            return f"judge them with: python -m bench reproduce --checkpoints {self.models}"
        last = self.stages.stages[-1].name
        return (
            f"draw from one with: python -m bench generate --checkpoint {self.models}/{last}.safetensors "
            f"--images 50000 --out SAMPLES\nand score it with: python -m bench quality --samples SAMPLES "
            f"--reference {self.study.name} --extractor {self.study.extractor}"
        )


@dataclass(frozen=True)
class Trained:
    """How many stages were trained, and not kept from an earlier run, and how long that took."""

    stages: int
    seconds: float


def prepare_study(options: StudyOptions) -> StudyJob:
    """Find the study and its stages, and make the directories.

    Raises:
        InputError: an unknown study or stage, or a directory that cannot be written.
    """
    study = find_study(options.dataset)
    chosen = study.only(options.stages) if options.stages else study
    out = prepare_output(options.out)
    models = prepare_output(options.models or out / "models")
    processes = options.processes or default_processes(options.device)
    record = environment_record(processes=processes, stages=len(chosen.stages), images=IMAGES)
    return StudyJob(study, chosen, out, models, processes, options.data_root, record)


def train_study(job: StudyJob, options: StudyOptions) -> Trained:
    """Train the stages; see `train_all`.

    Raises:
        InputError: no such device or data, data that do not fit the network, or a training that diverged.
    """
    began = time.monotonic()
    shortened = job.stages.shortened(options.shorten)
    made = train_all(shortened, job.models, processes=job.processes, device=options.device, data_root=options.data_root)
    return Trained(made, time.monotonic() - began)


def score_study(job: StudyJob, trained: Trained) -> list[Finding]:
    """Score the trained stages and write runs.csv and run.json.

    Returns:
        The findings, see `judge_study`; none where stages were left out.
    """
    began = time.monotonic()
    frame = score_all(job.stages, job.models, processes=job.processes, data_root=job.data_root)
    seconds = {"training": round(trained.seconds), "scoring": round(time.monotonic() - began)}
    write_table(frame, job.out, "runs")
    write_table(quarters_table(job.stages, job.models), job.out, "quarters")
    findings = judge_study(job.study, frame, job.out) if job.stages is job.study else []
    write_run(job.record | {"trained": trained.stages, "seconds": seconds}, job.out)
    return findings


def default_processes(device: str) -> int:
    """How many trainings run at once unless it is said: one per core, and one on a GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
