"""Which labels a generation draws: the classes that were asked for, or those that the checkpoint was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.data.image_set import Entry, describe_classes, read_class_table
from bench.models import ImageShape
from bench.records import printable
from dydit import InputError, first_line, nearest

SHOWN = 10
"""Labels that a message shows at most."""


@dataclass(frozen=True)
class DrawnLabels:
    """The labels that images are drawn for, each as often as the others.

    Args:
        labels: ascending.
        asked: whether they were asked for, and do not follow from the checkpoint.
        num_classes: that the network has.
        record: the classes that the checkpoint's training saw; None where the file does not tell.
        unreadable: why its record of classes cannot be read; None if it can, or there is none.
    """

    labels: tuple[int, ...]
    asked: bool
    num_classes: int
    record: tuple[Entry, ...] | None
    unreadable: str | None = None

    @property
    def all_classes(self) -> bool:
        """Whether they are all that the network has."""
        return len(self.labels) == self.num_classes

    def remarks(self, where: str, *, drawn: Sequence[int] | None = None) -> list[str]:
        """Lines on which classes are drawn, and a warning of those that the recorded training did not see.

        Args:
            where: the checkpoint.
            drawn: the labels of a run that began otherwise and goes on; by default these.
        """
        drawn, table = self.labels if drawn is None else drawn, self.record or ()
        lines = []
        if self.unreadable is not None:
            lines.append(f"warning: {where}: its record of classes cannot be read ({self.unreadable})")
        if self.record is not None and not self.all_classes:
            lines.append(f"{where}: trained on {describe_classes(table)}; the network has {self.num_classes}")
        if len(drawn) < self.num_classes:
            lines.append(f"labels are drawn from {len(drawn)} of {self.num_classes} classes: {_listed(drawn)}")
        unseen = [label for label in drawn if label not in _names(table)] if self.record is not None else []
        if unseen:
            lines.append(f"warning: the training that {where} records saw no image of these classes: {_listed(unseen)}")
        return lines


def choose_labels(asked: str | None, recorded: Mapping[str, str], config: ImageShape, where: str) -> DrawnLabels:
    """The labels to draw, from what was asked for and what the checkpoint records.

    Args:
        asked: names from the record or numbers, with commas between; None: the classes of the recorded training, or all
            where there is no record of it.
        recorded: the checkpoint's record; empty for a network without a file.
        config: of the network.
        where: the checkpoint, for messages.

    Raises:
        InputError: a name that the record does not have or has twice, a number that is no class, or a record of classes
            that the network does not have.
    """
    record, unreadable = None, None
    try:
        record = _recorded(recorded, config.num_classes, where)
    except InputError:
        raise
    except ValueError as error:  # of an earlier version, or damaged
        unreadable = printable(first_line(error))
    if asked is not None:
        labels = _asked(asked, _names(record or ()), config, where)
    else:
        labels = tuple(range(config.num_classes) if record is None else sorted(_names(record)))
    return DrawnLabels(labels, asked is not None, config.num_classes, record, unreadable)


def _recorded(recorded: Mapping[str, str], num_classes: int, where: str) -> tuple[Entry, ...] | None:
    """The classes with images in the checkpoint's record; None where it has no record of them."""
    if "classes" not in recorded:
        return None
    trained = tuple(row for row in read_class_table(recorded["classes"]) if row["images"])
    beyond = [row["label"] for row in trained if row["label"] >= num_classes]
    if beyond or not trained:
        what = f"images of class {beyond[0]}" if beyond else "no images"
        raise InputError(f"{where}: records {what} for a network of {num_classes} classes; write the file again")
    return trained


def _names(record: Sequence[Entry]) -> dict[int, str | None]:
    return {row["label"]: row["name"] for row in record}


def _asked(text: str, names: Mapping[int, str | None], config: ImageShape, where: str) -> tuple[int, ...]:
    """The labels of a list of names and numbers, ascending."""
    # A name may hold a comma itself, and is then taken where it stands alone.
    parts = [text] if text in names.values() else [part.strip() for part in text.split(",")]
    labels = [_label(part, names, config, where) for part in parts]
    for part, label in zip(parts, labels, strict=True):
        if labels.count(label) > 1:
            raise InputError(f"classes: {_quoted(part)} is class {label}, which is listed twice; list every class once")
    return tuple(sorted(labels))


def _label(part: str, names: Mapping[int, str | None], config: ImageShape, where: str) -> int:
    """The label of one name or number."""
    named = [label for label, name in names.items() if name == part]
    number = int(part) if re.fullmatch(r"[+-]?[0-9]{1,9}", part) else None
    meant: set[int] = {*named, *(() if number is None else (number,))}
    if len(meant) > 1:
        choices = " or ".join(map(str, sorted(meant)))
        raise InputError(f"classes: {_quoted(part)} may be class {choices} of {where}; give another name or number")
    if not meant:
        known = [name for name in names.values() if name is not None]
        if not known:
            last = config.num_classes - 1
            raise InputError(f"classes: {where} records no names, not {_quoted(part)}; give numbers, 0 to {last}")
        offered = ", ".join(_quoted(name) for name in nearest(part[:200], known))
        raise InputError(f"classes: {where} records no {_quoted(part)}; nearest names: {offered}")
    label = meant.pop()
    if not 0 <= label < config.num_classes:
        what = "the null label, for none" if label == config.null_label else "no class of this network"
        raise InputError(f"classes: {label} is {what}; {where} has the classes 0 to {config.num_classes - 1}")
    return label


def _quoted(text: str) -> str:
    return f'"{printable(text[:60])}"'


def _listed(labels: Sequence[int]) -> str:
    """Labels in words, runs of them shortened; at most `SHOWN` runs are shown."""
    runs: list[list[int]] = []
    for label in labels:
        if runs and label == runs[-1][1] + 1:
            runs[-1][1] = label
        else:
            runs.append([label, label])
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in runs[:SHOWN]]
    more = f" and {sum(last - first + 1 for first, last in runs[SHOWN:])} more" if len(runs) > SHOWN else ""
    return ", ".join(shown) + more
