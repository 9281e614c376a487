"""The commands, one module each: options, a call, what is printed. Uses every room but benchmarks.

A module holds `OPTIONS`, a dataclass as `bench.options` describes it, and `run(options)`, which may return an exit
status; or `ACTIONS`, where the command has several. It is imported only when its command was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Command(NamedTuple):
    """Where the module of a command lies, and the line that `--help` shows of it."""

    folder: str
    help: str


class Action(NamedTuple):
    """One of several things that a command does: its line of help, its options, and the function that takes them."""

    help: str
    options: type
    run: Callable[[Any], int | None]


COMMANDS = {
    "reproduce": Command("judge", "measure what can be measured here and judge every published number"),
    "plan": Command(
        "judge", "tell what a `generate` run will cost and what it lacks: its options, and how it will be scored"
    ),
    "flops": Command("measure", "count FLOPs and parameters at true scale, without weights"),
    "latency": Command("measure", "time static, plain, masked and realised inference in turns"),
    "generate": Command(
        "make",
        "draw guided images from a checkpoint: one process, or many under torchrun; resumes where it was stopped",
    ),
    "quality": Command("measure", "FID, sFID, IS, precision, recall and KID of a set of images"),
    "stats": Command("make", "build, merge, verify or list reference statistics"),
    "latents": Command("make", "encode a data set into latents once, for `finetune`; resumes where it was stopped"),
    "finetune": Command(
        "make",
        "fine-tune a DyDiT from a static checkpoint: one process, or many under torchrun; resumes where it was stopped",
    ),
    "small-scale": Command(
        "make",
        "train a study from nothing: the digits (more than an hour on 2 cores), photographs of clothes, "
        "or CIFAR-10 (needs a GPU and the data set)",
    ),
    "compare-methods": Command(
        "measure",
        "set pruning, merging, depth, caching, samplers, DyDiT and a method of your own side by side, on digits",
    ),
    "routing": Command(
        "measure", "show what routing learned: widths by timestep and layer, tokens over sampled images, work by class"
    ),
    "inspect": Command("measure", "say of any file what it is: checkpoint, images or statistics"),
    "compare": Command("judge", "two runs row by row: what is better, worse or not comparable, and why"),
    "history": Command("judge", "headline numbers over the committed runs of a machine, by date and commit"),
    "report": Command(
        "judge",
        "write README.md, the index of results/ and report.html from the committed runs, or the page of any run",
    ),
}
"""Every command by its name on the command line, in the order of `--help`."""
