"""The trained networks of a comparison, as stages of the study on digits: each trained on for equally many steps.

What was trained before is taken over: files in the directory, and those that the project ships, are made again only
where their record does not fit.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.comparison.entries import CONTROL, STATIC, Entry
from bench.records import check_listed, whole_file
from bench.studies.catalogue import CONTROL as CONTROL_RUN
from bench.studies.catalogue import DIGITS, MIDDLE, SEEDS, SIZES, Stage, Study, stage_stem
from bench.studies.samples import DIRECTORY
from dydit.baselines import changed_config, is_change

NETWORK = SIZES[MIDDLE]
"""The static network of the comparison: the study's middle one, whose weights are shipped."""


def stage_of(entry: Entry, seed: int) -> str:
    """Name of the stage whose weights an entry runs with; every network but the static one has a seed."""
    if entry.network == STATIC:
        return f"dit-{MIDDLE}"
    if entry.network == CONTROL:
        return stage_stem(MIDDLE, CONTROL_RUN, None, seed)
    if is_change(entry.network):
        return f"dit-{MIDDLE}-{entry.network.replace(':', '-')}-s{seed}"
    return stage_stem(MIDDLE, "both", float(entry.network.split(":")[1]), seed)


def methods_study(entries: Sequence[Entry], seeds: Sequence[int] = SEEDS) -> Study:
    """The stages that the entries need, parents before children."""
    known = {stage.name: stage for stage in DIGITS.stages}
    static = known[f"dit-{MIDDLE}"]
    stages = {static.name: static}
    for entry in entries:
        for seed in seeds:
            if entry.own:
                continue
            name = stage_of(entry, seed)
            stages[name] = known[name] if name in known else _changed_stage(name, entry.network, seed, known)
    return dataclasses.replace(DIGITS, stages=tuple(stages.values()))


def _changed_stage(name: str, change: str, seed: int, known: dict[str, Stage]) -> Stage:
    """A smaller network, fine-tuned by the recipe of the control."""
    recipe = known[stage_stem(MIDDLE, CONTROL_RUN, None, seed)].recipe
    return Stage(name, MIDDLE, changed_config(NETWORK, change), change, recipe, f"dit-{MIDDLE}")


def take_shipped(study: Study, directory: Path) -> None:
    """Copy the shipped networks of a study into a directory, where it has none.

    Raises:
        InputError: a shipped file is not the one that the project ships, or cannot be copied.
    """
    for name in (f"{stage.name}.safetensors" for stage in study.stages):
        if (DIRECTORY / name).is_file() and not (directory / name).is_file():
            check_listed(DIRECTORY / name)
            with whole_file(directory / name) as partial:
                shutil.copyfile(DIRECTORY / name, partial)
