"""The model card of a trained network: what it is, what made it, how it is used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from dydit.dit import DiT

_FACTS = {
    "data": "data",
    "data_sha256": "SHA-256 of the data",
    "label_table": "label table",
    "parent_sha256": "SHA-256 of the static checkpoint",
    "ordered": "heads and channels ordered by importance first",
    "precision": "precision",
    "final_loss": "loss, mean of the last tenth of the steps",
    "final_ratio": "FLOPs ratio in training, mean of the last tenth",
    "skipped_steps": "steps skipped above the gradient limit",
    "command": "command",
    "commit": "commit",
    "torch": "torch",
    "device": "device",
}
"""Entries of the record that the card shows, and their names there."""


def card_text(model: DiT, record: Mapping[str, str]) -> str:
    """Markdown of the card, from the record of the weights; entries that the record lacks are left out."""
    recipe = json.loads(record.get("recipe", "{}"))
    target = recipe.get("target")
    title = type(model).__name__ + (f", target FLOPs ratio (lambda) {target}" if target is not None else "")
    facts = {meaning: record[name] for name, meaning in _FACTS.items() if name in record}
    sections = [
        ("Network", "", "field", model.config.kwargs()),
        ("Recipe", record.get("recipe_source", ""), "setting", recipe),
        ("Record", "", "fact", facts),
    ]
    body = "\n\n".join(_section(*section) for section in sections if section[3])
    return f"""---
tags:
- diffusion
- image-generation
- dydit
---

# {title}

Class-conditional diffusion transformer after "Dynamic Diffusion Transformer" (arXiv 2410.03456). `model.safetensors`
holds the moving average of the weights. Where there is a `model.pt`, it holds them as `ema`, and the weights of the
last step as `model`, in the layout of the published checkpoints.

    python -m bench generate --checkpoint model.safetensors --images 64

{body}
"""


def markdown_cell(text: str) -> str:
    """A text as it stands in one cell of a table in markdown: in one line, without HTML and without new cells."""
    line = " ".join(text.split())
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")
    return re.sub(r"(\\*)\|", r"\1\1\\|", line)  # a backslash before the bar would take its escape away


def _section(title: str, opening: str, column: str, rows: Mapping[str, object]) -> str:
    cells = ((markdown_cell(str(name)), markdown_cell(str(value))) for name, value in rows.items())
    table = [f"| {column} | value |", "| :--- | :--- |", *(f"| {name} | {value} |" for name, value in cells)]
    return "\n\n".join(part for part in (f"## {title}", opening, "\n".join(table)) if part)
