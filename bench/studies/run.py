"""The whole of `bench small-scale`: a study checked, trained, and, where it is the one on digits, scored and judged."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.claims import Finding
from bench.machine import arithmetic, track
from bench.options import STEPS, THREADS, DataOptions, DeviceOptions, OutputOptions, option
from bench.records import ALL_FILES, RUN, Results, environment_record, read_run, take_directory, take_results
from bench.studies.catalogue import DIGITS, STUDIES, Stage, Study, find_study
from bench.studies.findings import JUDGED, judge_study
from bench.studies.scores import IMAGES, quarters_table, score_all
from bench.studies.train import TRAINING_THREADS, curves_table, train_all, untrained
from dydit.training import InMemory, Training

_WARM, _TIMED = 2, 5
"""Steps of a network before the clock starts, which are slower, and steps that are timed."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions(DeviceOptions, DataOptions, OutputOptions):
    """Which study to train, and how much of it."""

    out: Path = Path("results/local/small-scale")
    dataset: str = option("digits", metavar="NAME", help=", ".join(STUDIES))
    models: Path | None = option(None, metavar="DIR", help="of the trained files (default: OUT/models)")
    stages: Sequence[str] | None = option(
        None, metavar="NAME", help="only these and what they start from, such as dydit-m-0.5-s1"
    )
    shorten: int = option(1, metavar="N", help="divide every step count, for a trial", within=STEPS)
    plan: bool = option(False, help="train nothing; time a few steps and tell how long the trainings will take")
    judge: Path | None = option(
        None, metavar="DIR", help="train nothing; judge the finished run in DIR again, from its runs.csv"
    )
    processes: int | None = option(
        None, metavar="N", help="stages trained at once (default: one per core, one on a GPU)", within=THREADS
    )


@dataclass(frozen=True)
class StudyJob:
    """A study that may begin, with the directories that this run has taken, and its record.

    `stages` are those of `study` that were asked for, shortened in a trial.
    """

    study: Study
    stages: Study
    results: Results
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
        draw = (
            f"draw from one with: python -m bench generate --checkpoint {self.models}/{last}.safetensors --images 50000"
        )
        if self.scored:
            return draw
        return (
            f"{draw} --out SAMPLES\nand score it with: python -m bench quality --samples SAMPLES "
            f"--reference {self.study.name} --extractor {self.study.extractor}"
        )


@dataclass(frozen=True)
class Trained:
    """How many stages were trained, and not kept from an earlier run, and how long that took."""

    stages: int
    seconds: float


@contextlib.contextmanager
def prepared_study(options: StudyOptions) -> Iterator[StudyJob]:
    """Find the study and its stages, and take the directories.

    Raises:
        InputError: an unknown study or stage, or a directory that cannot be written or that another run has taken.
    """
    study = find_study(options.dataset)
    chosen = (study.only(options.stages) if options.stages else study).shortened(options.shorten)
    models = options.models or options.out / "models"
    processes = options.processes or default_processes(options.device)
    with take_study(options.out, models) as results:
        record = environment_record(processes=processes, stages=len(chosen.stages), images=IMAGES)
        yield StudyJob(study, chosen, results, models, processes, options.data_root, record)


@contextlib.contextmanager
def take_study(out: Path, models: Path) -> Iterator[Results]:
    """Take the directory of the results and that of the trained files, which may be one, with the scores in either.

    Raises:
        InputError: as `bench.records.take_directory`.
    """
    files = (*ALL_FILES, "scores/*.*")
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(take_results(out, files))
        if models.resolve() != out.resolve():
            stack.enter_context(take_directory(models, files))
        yield results


def plan_study(job: StudyJob, options: StudyOptions) -> pd.DataFrame:
    """Write plan.csv and its record, beside that of an earlier run, and return it; see `estimate_study`."""
    table = estimate_study(job.stages, processes=job.processes, device=options.device, data_root=job.data_root)
    out = job.results.directory
    earlier = read_run(out) if (out / RUN).exists() else None  # of the study itself, perhaps, which is not lost
    results = Results(out, earlier)
    results.write_table(table, "plan")
    results.write_record(job.record if earlier is None else {**earlier, "planned": job.record})
    return table


def estimate_study(study: Study, *, processes: int, device: str, data_root: Path | None) -> pd.DataFrame:
    """Expected hours of every stage, if nothing of it is kept, and of the whole; nothing is trained or written.

    Runs of one size and kind of network are timed once: neither lambda nor the seed changes what a training step
    computes, but the warm-up of the complete model does, and is timed by itself.

    Returns:
        One row per stage: stage, steps, `warmup_s` and `step_s` (median seconds of a step within the warm-up of the
        complete model, and after it), and hours, of a process by itself; and a last row `all`, in which the stages
        share `processes` processes that do not slow each other, and each waits for those that it starts from.

    Raises:
        InputError: the data set cannot be read.
    """
    data = study.load(data_root)
    images = InMemory(data.x.to(device), data.labels.to(device))
    kinds: dict[tuple[str, str], Stage] = {}
    for stage in study.stages:
        kinds.setdefault(_kind(stage), stage)
    seconds: dict[tuple[str, str], tuple[float, float]] = {}
    with arithmetic(TRAINING_THREADS, tf32=torch.device(device).type == "cuda"):
        for kind, stage in track(list(kinds.items()), f"timing steps of {study.name}"):
            plain = _step_seconds(stage, images, 0, device)
            warmed = stage.recipe.complete_warmup > 0
            seconds[kind] = (_step_seconds(stage, images, _WARM + _TIMED, device) if warmed else plain, plain)
    rows = []
    for stage in study.stages:
        (warmup_s, step_s), recipe = seconds[_kind(stage)], stage.recipe
        total = recipe.complete_warmup * warmup_s + (recipe.steps - recipe.complete_warmup) * step_s
        row = {"stage": stage.name, "steps": recipe.steps, "warmup_s": warmup_s, "step_s": step_s}
        rows.append(row | {"hours": total / 3600})
    table = pd.DataFrame(rows)
    through: dict[str, float] = {}  # hours of a stage and of all that must be made before it
    for stage, hours in zip(study.stages, table["hours"], strict=True):
        through[stage.name] = hours + max((through[name] for name in stage.needs if name in through), default=0.0)
    hours = max(table["hours"].sum() / processes, *through.values())
    whole = {"stage": "all", "steps": int(table["steps"].sum()), "hours": hours}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def _kind(stage: Stage) -> tuple[str, str]:
    return stage.size, f"{stage.kind} warm-up {stage.recipe.complete_warmup > 0}"


def _step_seconds(stage: Stage, images: InMemory, warmup: int, device: str) -> float:
    """Median seconds of a training step, all within a warm-up of the complete model, or all without one."""
    recipe = dataclasses.replace(stage.recipe, complete_warmup=warmup)
    training, times = Training(untrained(stage).to(device), recipe), []
    for _ in range(_WARM + _TIMED):
        began = time.perf_counter()
        training.advance(images)  # reads the loss, so the device has finished
        times.append(time.perf_counter() - began)
    return float(pd.Series(times[_WARM:]).median())


def train_study(job: StudyJob, options: StudyOptions) -> Trained:
    """Train the stages; see `train_all`.

    Raises:
        InputError: no such device or data, data that do not fit the network, or a training that diverged.
    """
    began = time.monotonic()
    made = train_all(
        job.stages, job.models, processes=job.processes, device=options.device, data_root=options.data_root
    )
    return Trained(made, time.monotonic() - began)


def score_study(job: StudyJob, trained: Trained) -> list[Finding]:
    """Score the trained stages; write runs, quarters and curves, as far as files keep them, and run.json.

    Returns:
        The findings, see `judge_study`; none where stages were left out or shortened.
    """
    began = time.monotonic()
    frame = score_all(job.stages, job.models, processes=job.processes, data_root=job.data_root)
    seconds = {"training": round(trained.seconds), "scoring": round(time.monotonic() - began)}
    job.results.write_table(frame, "runs")
    job.results.write_table(quarters_table(job.stages, job.models), "quarters")
    curves = curves_table(job.stages, job.models)
    if not curves.empty:
        job.results.write_table(curves, "curves")
    findings = judge_study(job.study, frame, job.results) if job.stages in JUDGED else []
    job.results.write_record(job.record | {"trained": trained.stages, "seconds": seconds})
    return findings


def default_processes(device: str) -> int:
    """How many trainings run at once unless it is said: one per core, and one on a GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
