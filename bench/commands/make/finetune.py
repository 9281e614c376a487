"""`python -m bench finetune`: a DyDiT, an ablation or a control from a static checkpoint, by a named recipe."""

from __future__ import annotations

from bench.training.finetune import finetune
from bench.training.job import FinetuneOptions

OPTIONS = FinetuneOptions


def run(options: FinetuneOptions) -> None:
    """Train the model."""
    path = finetune(options)
    if path is not None:
        print(f"trained: {path}; draw from it with: python -m bench generate --checkpoint {path} --images 64")
