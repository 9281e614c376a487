"""Where the time of a forward goes: the engine's named parts, static and dynamic side by side."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import pandas as pd
import torch

from bench.machine import synchronise
from dydit.inference import watch_spans

PARTS = (
    "embedding",
    "modulation",
    "norm",
    "qkv",
    "attention",
    "proj",
    "token routing",
    "gather",
    "MLP",
    "scatter",
    "final layer",
)
REPEATS = 5


class Mark(Protocol):
    """A moment: on a GPU an event in its stream, which makes nothing wait."""

    def elapsed_time(self, end: Any, /) -> float:
        """Milliseconds from here to `end`."""


class _HostMark:
    def __init__(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: _HostMark, /) -> float:
        return (end.at - self.at) * 1e3


def _event() -> Mark:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


@contextlib.contextmanager
def _timed(spans: list[tuple[str, Mark, Mark]], mark: Callable[[], Mark], part: str) -> Iterator[None]:
    began = mark()
    yield
    spans.append((part, began, mark()))


def measure_parts(calls: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, dict[str, float]]:
    """Mean ms of one call by part, and of the whole under `forward`, for each named call; calls take turns.

    Triton's kernels fuse parts: gathering the tokens counts as `norm`, scattering them as `MLP`, and
    the list of them as `token routing`.
    """
    totals: dict[str, dict[str, float]] = {name: dict.fromkeys((*PARTS, "forward"), 0.0) for name in calls}
    mark = _event if device.type == "cuda" else _HostMark
    for call in calls.values():
        call()
    for _ in range(REPEATS):
        for name, call in calls.items():
            spans: list[tuple[str, Mark, Mark]] = []
            clock = functools.partial(_timed, spans, mark)
            with watch_spans(clock), clock("forward"):
                call()
            synchronise(device)
            for part, began, ended in spans:
                totals[name][part] += began.elapsed_time(ended) / REPEATS
    return totals


def table(
    parts: Mapping[str, dict[str, float]], labels: Mapping[str, dict[str, Any]], ideal: Mapping[str, float]
) -> pd.DataFrame:
    """One row per call and part: ms, share, the static ms, and `lost_ms`, what it takes beyond its FLOPs' share.

    `ideal` is the executed FLOPs ratio of each call: a part that shrank as the FLOPs did loses nothing. A call that
    names no parts, such as that of plain modules, has one row, for the whole.
    """
    rows = []
    for name, times in parts.items():
        split = _with_rest if any(times[part] for part in PARTS) else _whole
        base = split(parts["static"])
        for part, spent in split(times).items():
            rows.append(
                labels[name]
                | {
                    "part": part,
                    "ms": spent,
                    "share": spent / times["forward"],
                    "static_ms": base[part],
                    "lost_ms": spent - ideal[name] * base[part],
                }
            )
    return pd.DataFrame(rows)


def _with_rest(times: Mapping[str, float]) -> dict[str, float]:
    named = {part: times[part] for part in PARTS}
    return named | {"rest": times["forward"] - sum(named.values())}


def _whole(times: Mapping[str, float]) -> dict[str, float]:
    return {"whole": times["forward"]}
