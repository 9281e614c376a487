"""Progress on standard error; standard output is for results alone."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


T = TypeVar("T")


def track(iterable: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """The same items; while they are consumed, a bar shows their number per second and the time left.

    `total` is needed where `iterable` has no length. Nothing is shown unless standard error is a terminal.
    """
    if not sys.stderr.isatty():
        yield from iterable
        return
    with _progress() as progress:
        yield from progress.track(iterable, total=total, description=description)


def status(message: str) -> None:
    """Print one line on standard error, above the bar if one is shown."""
    print(" ".join(message.splitlines()), file=sys.stderr, flush=True)


def _progress() -> Progress:
    # Imported here: a bare machine that only runs timings has no rich, and shows no bar.
    from rich import progress
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text(f"{task.completed / task.elapsed:.3g} items/s" if task.elapsed and task.completed else "")

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
        console=_console(),
    )


@functools.cache
def _console() -> Console:
    # One console for all bars, so that the bar of an inner loop stands below that of the outer one.
    from rich.console import Console

    return Console(stderr=True)
