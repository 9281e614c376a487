"""The model card of a fine-tuned network: what it is, what made it, how it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping

from dydit.dit import DiT


def text(model: DiT, record: Mapping[str, str]) -> str:
    """Markdown of the card, from the record that the weights carry."""
    recipe = json.loads(record["recipe"])
    kind, target = type(model).__name__, recipe["target"]
    asked = "a static DiT" if target is None else f"target FLOPs ratio (lambda) {target}"
    facts = {
        "data": f"{record['data']} (SHA-256 {record['data_sha256']})",
        "static checkpoint": f"SHA-256 {record['parent_sha256']}",
        "heads and channels ordered by importance first": record["ordered"],
        "steps skipped above the gradient limit": record["skipped_steps"],
        "loss, mean of the last tenth of the steps": record["final_loss"],
        "FLOPs ratio in training, mean of the last tenth": record["final_ratio"],
        "command": f"`{record['command']}`",
        "commit": record["commit"],
        "torch": record["torch"],
    }
    tables = [_table(("setting", "value"), recipe), _table(("fact", "value"), facts)]
    shape = _table(("field", "value"), model.config.kwargs())
    return f"""---
tags:
- diffusion
- image-generation
- dydit
---

# {kind}, {asked}

Class-conditional diffusion transformer after "Dynamic Diffusion Transformer" (arXiv 2410.03456), fine-tuned from a
static DiT. `model.safetensors` holds the moving average of the weights; `model.pt` holds it as `ema`, and the weights
of the last step as `model`, in the layout of the published checkpoints.

    python -m bench generate --checkpoint model.safetensors --images 64

## Recipe

{record["recipe_source"]}

{tables[0]}

## Network

{shape}

## Record

{tables[1]}
"""


def _table(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| :--- | :--- |"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])
