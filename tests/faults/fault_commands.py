"""The commands that faults are tried on, each as small as it gets, and what they work on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.records import Results, read_run, read_table
from bench.report.readme import committed_run
from bench.studies.samples import DIRECTORY
from dydit import DiT, DyDiT, checkpoint

PIXELS = {"input_size": 8, "patch_size": 4, "in_channels": 1, "hidden_size": 24, "depth": 2, "num_heads": 2}
LATENT = {**PIXELS, "input_size": 4, "patch_size": 2, "in_channels": 4, "num_classes": 3}
RECIPE = "--batch 4 --lambda 0.5 --warmup 1 --target-hold 1 --target-reached 2 --save-every 1"
STUDY = """
import dataclasses
from bench.studies import catalogue, run, scores
from bench.studies.catalogue import DIGITS
load = DIGITS.load
def few(data_root):
    data = load(data_root)
    return dataclasses.replace(data, images=data.images[:100], labels=data.labels[:100])
stages = DIGITS.only(["dydit-s-0.7-s1"]).stages
run.find_study = lambda name: dataclasses.replace(DIGITS, load=few, stages=stages)
run.judge_study = lambda study, frame, results: []
scores.STEPS = 2
scores.score_all.__kwdefaults__["images"] = 12
scores.evaluated.__defaults__ = (64,)
"""
FEW = """
import functools
from bench.reproduction import reproduce
from bench.studies.samples import Sampling
reproduce.TIERS["smoke"] = dict.fromkeys(("digits", "fashion"), Sampling(images=20, steps=2))
reproduce.count_and_judge = functools.partial(reproduce.count_and_judge, models=["DiT-S/8"])
"""


@dataclass(frozen=True)
class Command:
    """A command line, run in a directory where `files` lie.

    Args:
        name: for people.
        line: relative to that directory; results go to `out`.
        files: what it works on, by path; the names are those of `make_input`.
        setup: code that makes it smaller than its options can.
        processes: that work together.
        reads: paths of `files` that the command must not be misled by.
        spare: what a finished run neither reads nor writes: checkpoints in case that later ones are damaged.
        tells: whether it shows on its page what is wrong with a file, and goes on.
        smoke: whether a few faults are tried in every run of the tests.
        share: of the faults that are tried on others, where each takes long.
    """

    name: str
    line: str
    files: Mapping[str, str] = field(default_factory=dict)
    setup: str = ""
    processes: int = 1
    reads: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    tells: bool = False
    smoke: bool = False
    share: float = 1.0


GENERATE = "generate --images 12 --steps 2 --unit 5 --checkpoint"
SPARE = ("out/checkpoints/00000002.pt",)
LATENTS = "latents --data pictures --vae vae --resolution 32 --unit 4 --out out"
FINETUNE = f"finetune --from static.safetensors --steps 3 {RECIPE} --out out"
COMMANDS = (
    Command(
        "generate",
        f"{GENERATE} model.safetensors --png --out out",
        {"model.safetensors": "dynamic.safetensors"},
        reads=("model.safetensors",),
        smoke=True,
    ),
    Command(
        "generate, two processes",
        f"{GENERATE} model.safetensors --out out",
        {"model.safetensors": "dynamic.safetensors"},
        processes=2,
    ),
    Command(
        "finetune",
        f"{FINETUNE} --data images.npz",
        {"static.safetensors": "static.safetensors", "images.npz": "images.npz"},
        reads=("static.safetensors", "images.npz"),
        spare=SPARE,
        smoke=True,
    ),
    Command(
        "finetune, two processes",
        f"{FINETUNE} --data images.npz --micro-batch 2",
        {"static.safetensors": "static.safetensors", "images.npz": "images.npz"},
        processes=2,
    ),
    Command(
        "latents",
        LATENTS,
        {"pictures": "pictures", "vae": "vae"},
    ),
    Command(
        "finetune on latents",
        f"{FINETUNE} --data latents",
        {"static.safetensors": "latent.safetensors", "latents": "latents"},
        reads=("latents",),
        spare=SPARE,
    ),
    Command(
        "quality",
        "quality --samples samples --reference images.npz --metrics FID IS --resamples 0 --out out",
        {"samples": "samples", "images.npz": "images.npz"},
        reads=("samples", "images.npz"),
        smoke=True,
    ),
    Command(
        "quality --paired",
        "quality --samples samples --paired others --out out",
        {"samples": "samples", "others": "others"},
    ),
    Command(
        "quality with statistics",
        "quality --samples samples --reference statistics/part.2of2.npz --metrics FID --resamples 0 --out out",
        {"samples": "samples", "statistics": "parts"},
        reads=("statistics",),
    ),
    Command(
        "stats build",
        "stats build images.npz --name own --extractor digits-cnn --out out",
        {"images.npz": "images.npz"},
        reads=("images.npz",),
        smoke=True,
    ),
    Command("stats build, pinned", "stats build digits --root out", share=0.5),
    Command(
        "stats merge",
        "stats merge whole parts/part.1of2.npz parts/part.2of2.npz --out out",
        {"parts": "parts"},
        reads=("parts",),
    ),
    Command("small-scale", "small-scale --shorten 1000000 --processes 1 --out out", setup=STUDY, share=0.5),
    # The table for people beside the one that is judged is neither read nor written.
    Command("small-scale --judge", "small-scale --judge out", {"out": "study"}, spare=("out/runs.md",)),
    Command(
        "compare-methods",
        "compare-methods --methods fora:2 --steps 2 --images 10 --seeds 1 --batch 2 --seconds 0 --shorten 1000000 "
        "--processes 1 --out out",
        share=0.3,
    ),
    Command("flops", "flops --models DiT-S/8 --out out"),
    Command(
        "latency",
        "latency --checkpoint model.safetensors --batch 1 2 --steps 2 --seconds 0 --threads 1 --out out",
        {"model.safetensors": "dynamic.safetensors"},
    ),
    Command(
        "routing",
        "routing --checkpoint model.safetensors --images 2 --steps 2 --out out",
        {"model.safetensors": "dynamic.safetensors"},
    ),
    Command(
        "plan",
        "plan --checkpoint model.safetensors --images 8 --rate 1 --lambda 0.5 --out out",
        {"model.safetensors": "dynamic.safetensors"},
    ),
    Command("reproduce --claim", "reproduce --claim dydit-table8-dit-s-static-lambda-1.0-flops --out out"),
    Command(
        "reproduce",
        "reproduce --tier smoke --checkpoints digits --out out",
        {"digits": "digits"},
        FEW,
        reads=("digits",),
        share=0.3,
    ),
    Command("compare", "compare one two --out out", {"one": "flops", "two": "flops"}, reads=("one",)),
    Command("history", "history --out out"),
    Command("report --page", "report --page out", {"out": "flops"}, tells=True),
)


Run = Callable[[str, Mapping[str, str]], Path]
"""(line, files as in `Command`) -> the `out` of that command."""


def make_input(name: str, path: Path, run: Run) -> None:
    """Make at `path` what commands work on under this name."""
    if name in NETWORKS:
        torch.manual_seed(0)
        kind, config = NETWORKS[name]
        model = kind(**config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        checkpoint.write(path, model)
    else:
        MADE[name](path, run)


def _images(path: Path, _: Run) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    np.savez(path, arr_0=images, arr_1=np.arange(24) % 10)


def _pictures(path: Path, _: Run) -> None:
    for index in range(6):
        file = path / f"class{index // 2}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)


def _autoencoder(path: Path, _: Run) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL(
        block_out_channels=(4, 4, 4, 8),
        norm_num_groups=2,
        layers_per_block=1,
        latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    ).save_pretrained(path)


def _study(path: Path, _: Run) -> None:
    study, results = committed_run("study"), Results(path)
    results.write_table(read_table(study, "runs"), "runs")
    results.write_record(read_run(study))


def _parts(path: Path, run: Run) -> None:
    for part in ("1/2", "2/2"):
        line = f"stats build images.npz --name part --part {part} --extractor digits-cnn --out out"
        shutil.copytree(run(line, {"images.npz": "images.npz"}), path, dirs_exist_ok=True)


def _left_by(line: str, **files: str) -> Callable[[Path, Run], None]:
    """What a command leaves; the names of `files` have an underscore where the paths have a dot."""
    named = {path.replace("_", "."): name for path, name in files.items()}
    return lambda path, run: shutil.copytree(run(line, named), path) and None


NETWORKS: dict[str, tuple[type[DiT], dict[str, Any]]] = {
    "static.safetensors": (DiT, PIXELS),
    "dynamic.safetensors": (DyDiT, PIXELS),
    "latent.safetensors": (DiT, LATENT),
}
MADE: dict[str, Callable[[Path, Run], None]] = {
    "images.npz": _images,
    "pictures": _pictures,
    "vae": _autoencoder,
    "study": _study,
    "parts": _parts,
    "digits": lambda path, _: shutil.copytree(DIRECTORY, path) and None,
    "samples": _left_by(f"{GENERATE} model.safetensors --out out", model_safetensors="dynamic.safetensors"),
    "others": _left_by(f"{GENERATE} model.safetensors --out out", model_safetensors="static.safetensors"),
    "latents": _left_by(LATENTS, pictures="pictures", vae="vae"),
    "flops": _left_by("flops --models DiT-S/8 --out out"),
}
