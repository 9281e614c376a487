"""Names for the parts of a forward, for whoever watches: a clock, or `torch.profiler.record_function`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Watch = Callable[[str], contextlib.AbstractContextManager[object]]
_NO_SPAN = contextlib.nullcontext()
_watch: ContextVar[Watch] = ContextVar("watch", default=lambda _: _NO_SPAN)


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Inside, every named part of a forward runs within `watch(name)`."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def span(name: str) -> contextlib.AbstractContextManager[object]:
    """Name a part of the forward."""
    return _watch.get()(name)
