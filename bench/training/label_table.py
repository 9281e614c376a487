"""The label table of a network that is trained on other classes than its checkpoint was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.data.image_set import Entry, read_class_table
from bench.records import printable
from dydit import DiT, DiTConfig
from dydit.checkpoint import Checkpoint

TABLE = "y_embedder.embedding_table.weight"


def with_new_labels(found: Checkpoint, parent: DiTConfig, model: DiT) -> Checkpoint:
    """The checkpoint with the label table of a fresh `model`, but for the null label's row, which is the checkpoint's.

    Args:
        found: the checkpoint.
        parent: configuration of its network.
        model: the network to be filled, of another number of classes or of others; its table is still as it was drawn.
    """
    table = model.state_dict()[TABLE].clone()
    if parent.null_label is not None:
        table[-1] = found.state[TABLE][-1]
    return dataclasses.replace(found, state={**found.state, TABLE: table})


def describe_table(parent: DiTConfig, config: DiTConfig) -> str:
    """What `with_new_labels` did, in words."""
    null = "no null label" if config.null_label is None else "the null label's row kept"
    return f"made anew for {config.num_classes} classes (the checkpoint has {parent.num_classes}), {null}"


def label_remarks(found: Checkpoint, config: DiTConfig, classes: Sequence[Entry], source: str) -> list[str]:
    """Lines on labels that may mean something else to the checkpoint than in the data, where its table is kept.

    Args:
        found: the checkpoint.
        config: of the network.
        classes: of the data.
        source: the checkpoint, for messages.
    """
    remedy = f"--new-classes {max(row['label'] for row in classes) + 1} makes the label table anew"
    lines = []
    if len(classes) < config.num_classes:
        lines.append(
            f"the data has {len(classes)} of the {config.num_classes} classes of the label table, and each label goes "
            f"on from the row of its number in {source}; {remedy}"
        )
    try:
        before = {row["label"]: row["name"] for row in read_class_table(found.record.get("classes", "[]"))}
    except ValueError:
        return [*lines, f"warning: {source}: its record of classes cannot be read, and is not compared with the data's"]
    for row in classes:
        there, here = before.get(row["label"]), row["name"]
        if None not in (there, here) and there != here:
            lines.append(
                f"warning: label {row['label']} is {printable(str(here))[:60]} in the data and was "
                f"{printable(str(there))[:60]} when {source} was trained; {remedy}"
            )
            break
    return lines
