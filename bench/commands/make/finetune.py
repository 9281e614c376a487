"""`python -m bench finetune`: a DyDiT, an ablation or a control from a static checkpoint, by a named recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "fine-tune a DyDiT from a static checkpoint: one process, or many under torchrun; resumes where it was stopped"
OUT = Path("results/local/finetune")

_CHANGES = {
    "steps": (int, "steps", "optimiser steps"),
    "batch": (int, "batch_size", "images a step, over all processes"),
    "micro-batch": (
        int,
        "micro_batch",
        "images computed at once, of which the FLOPs loss takes the mean ratio (default: the batch)",
    ),
    "lambda": (float, "target", "target FLOPs ratio"),
    "seed": (int, "seed", "of rows, timesteps, noise and gates (default 0)"),
    "learning-rate": (float, "learning_rate", "of AdamW (default 1e-4)"),
    "ema-decay": (float, "ema_decay", "of the moving average (default 0.9999)"),
    "warmup": (int, "complete_warmup", "steps with the loss of the complete model (default 0)"),
    "target-hold": (int, "target_hold", "steps before the FLOPs target falls (default 100)"),
    "target-reached": (int, "target_reached", "step at which it is lambda (default 1000)"),
    "gradient-limit": (float, "gradient_limit", "norm above which a step is skipped (default: none)"),
}
"""Option -> type, field of the recipe, meaning."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--from", dest="source", required=True, metavar="FILE", help="checkpoint of the static DiT")
    parser.add_argument(
        "--data", required=True, metavar="NAME|PATH", help="digits, another data set, images, or cached latents"
    )
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="files of the data set, where it is not fetched")
    parser.add_argument(
        "--recipe", metavar="NAME", help="such as dydit-xl-0.5 or released-xl-0.7; the options below change it"
    )
    for name, (kind, field, meaning) in _CHANGES.items():
        metavar = "N" if kind is int else "X"
        parser.add_argument(f"--{name}", type=kind, dest=f"recipe_{field}", metavar=metavar, help=meaning)
    parser.add_argument(
        "--flip", dest="recipe_flip", action=argparse.BooleanOptionalAction, help="mirror half of the images"
    )
    parser.add_argument(
        "--ablation",
        action="append",
        default=[],
        metavar="NAME",
        help="a network (tdw-only, sdt-only, random, layer-skip, ...; static for the control) or no-warmup, "
        "no-ordering, flops-weight-X; may be repeated",
    )
    parser.add_argument(
        "--rates", type=float, nargs=3, metavar=("HEADS", "GROUPS", "TOKENS"), help="open shares, for --ablation random"
    )
    parser.add_argument("--model", metavar="NAME", help="such as DyDiT-S/2, for files that do not name their model")
    parser.add_argument("--resolution", type=int, metavar="PIXELS", help="of a named model (default 256)")
    parser.add_argument("--weights", default="ema", help="of a training checkpoint: ema (default) or model")
    parser.add_argument("--precision", default="fp32", help="fp32 (default), or bf16 for matrix products in bfloat16")
    parser.add_argument("--tf32", action="store_true", help="TF32 products on a GPU, as the papers' training has them")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations: less memory, more time")
    parser.add_argument(
        "--shard", action="store_true", help="under torchrun: each process holds its part of the model alone (FSDP)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process (default 1); decides rounding")
    parser.add_argument("--save-every", type=int, default=1000, metavar="N", help="steps (default 1000)")
    parser.add_argument("--tensorboard", action="store_true", help="write the logs to OUT/tensorboard, too")
    parser.add_argument("--keep", type=int, default=2, metavar="N", help="checkpoints that stay (default 2)")


def run(options: argparse.Namespace) -> None:
    """Do what the options say."""
    from bench.training import finetune
    from bench.training.job import FinetuneOptions

    values = {name: value for name, value in vars(options).items() if name != "run"}
    given = {name: values.pop(name) for name in tuple(values) if name.startswith("recipe_")}
    values["changes"] = {name.removeprefix("recipe_"): value for name, value in given.items() if value is not None}
    values["ablation"] = tuple(values["ablation"])
    values["rates"] = tuple(values["rates"]) if values["rates"] else None
    path = finetune.finetune(FinetuneOptions(**values))
    if path is not None:
        print(f"trained: {path}; draw from it with: python -m bench generate --checkpoint {path} --images 64")
