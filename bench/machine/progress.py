"""Progress on standard error; standard output is for results alone."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


T = TypeVar("T")
LOG_SECONDS = 30.0
"""Between two lines of progress in a log."""


def track(iterable: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """The same items; while they are consumed, a bar shows their number per second and the time left.

    `total` is needed where `iterable` has no length. Where standard error is no terminal, a line says the same every
    `LOG_SECONDS`.
    """
    if not sys.stderr.isatty():
        yield from _logged(iterable, description, total)
        return
    with _progress() as progress:
        yield from progress.track(iterable, total=total, description=description)


def _logged(iterable: Iterable[T], description: str, total: float | None) -> Iterator[T]:
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    began = time.monotonic()
    _log.begin(began)
    for count, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if _log.due(now):
            rate = count / (now - began)
            left = "" if total is None else f" of {total:g}, {max(0, total - count) / rate / 60:.1f} minutes left"
            status(f"{description}: {count}{left}; {rate:.3g} items/s")


class _Log:
    """When the last line was due, over all loops: many short ones in a row are long work, too."""

    def __init__(self) -> None:
        self.spoken = self.seen = -LOG_SECONDS

    def begin(self, now: float) -> None:
        """A loop begins; after a pause the time counts from here."""
        if not 0 <= now - self.seen < LOG_SECONDS:
            self.spoken = now
        self.seen = now

    def due(self, now: float) -> bool:
        """An item is done; whether it is time for a line."""
        self.seen = now
        if now - self.spoken < LOG_SECONDS:
            return False
        self.spoken = now
        return True


_log = _Log()


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
