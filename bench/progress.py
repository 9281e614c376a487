"""Progress on standard error; results own standard output."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / task.elapsed:.3g} items/s" if task.elapsed and task.completed else "")


def track(iterable: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """The same items, with a bar, items/s and the time left while they are consumed.

    `total` is needed where `iterable` has no length. Nothing is shown unless standard error is a terminal.
    """
    if not sys.stderr.isatty():
        yield from iterable
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=_console()) as progress:
        yield from progress.track(iterable, total=total, description=description)


def status(message: str) -> None:
    """One line on standard error, flushed; above the bar while one is shown."""
    print(" ".join(message.splitlines()), file=sys.stderr, flush=True)


@functools.cache
def _console() -> Console:
    # One console for all bars, so that a bar inside another stands below it.
    return Console(stderr=True)
