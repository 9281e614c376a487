"""Names for the parts of a forward, by which a clock or `torch.profiler.record_function` can watch them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Watch = Callable[[str], contextlib.AbstractContextManager[object]]
"""Name of a part -> the context in which the part runs."""

_NO_SPAN = contextlib.nullcontext()
_watch: ContextVar[Watch] = ContextVar("watch", default=lambda _: _NO_SPAN)


@contextlib.contextmanager
def watch_spans(watch: Watch) -> Iterator[None]:
    """Inside this context every named part of a forward runs within `watch(name)`."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def span(name: str) -> contextlib.AbstractContextManager[object]:
    """The context in which the part of this name runs."""
    return _watch.get()(name)
