"""Progress shows on a terminal, stays off everything else, and never changes the items."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
from collections.abc import Iterable, Iterator

import pytest

from bench.machine import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    # Within the test: what a fixture puts in place of sys.stderr, pytest's capture replaces again.
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress._console.cache_clear()
    with contextlib.redirect_stderr(Terminal()) as stream:
        yield stream
    progress._console.cache_clear()


def test_short_work_is_quiet_when_standard_error_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(range(3), "steps")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("total", [None, 3])
def test_a_terminal_shows_description_count_and_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int | None
) -> None:
    items = iter("abc") if total else "abc"
    with terminal(monkeypatch) as stream:
        assert list(progress.track(items, "sampling", total=total)) == ["a", "b", "c"]
    shown = stream.getvalue()
    assert "sampling" in shown and "3/3" in shown and "items/s" in shown
    assert capsys.readouterr() == ("", "")


def test_bars_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as stream:
        pairs = [(a, b) for a in progress.track(range(2), "outer") for b in progress.track(range(2), "inner")]
    assert pairs == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert "outer" in stream.getvalue() and "inner" in stream.getvalue()


def test_items_are_taken_one_at_a_time() -> None:
    taken = []

    def source() -> Iterator[int]:
        for item in range(5):
            taken.append(item)
            yield item

    next(progress.track(source(), "steps"))
    assert taken == [0]


def test_a_failing_loop_leaves_the_terminal_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise RuntimeError("broken source")

    with terminal(monkeypatch) as stream:
        with pytest.raises(RuntimeError, match="broken source"):
            list(progress.track(source(), "steps", total=2))
        assert sys.stderr is stream
        assert list(progress.track([1], "again")) == [1]
    assert "again" in stream.getvalue()


def test_status_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    progress.status("loading\nweights")
    assert capsys.readouterr() == ("", "loading weights\n")


@pytest.mark.parametrize(
    ("items", "total", "lines"),
    [
        (range(4), None, ["work: 2 of 4, 0.7 minutes left; 0.05 items/s", "work: 4 of 4, 0.0 minutes left"]),
        (iter(range(4)), 8, ["work: 2 of 8, 2.0 minutes left; 0.05 items/s", "work: 4 of 8, 1.3 minutes left"]),
        (iter(range(4)), None, ["work: 2; 0.05 items/s", "work: 4; 0.05 items/s"]),
    ],
)
def test_long_work_leaves_a_line_now_and_then(
    items: Iterable[int],
    total: int | None,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count(0.0, 20.0)  # every item takes 20 seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track(items, "work", total)) == [0, 1, 2, 3]
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == len(lines)
    assert all(line.startswith(start) for line, start in zip(shown, lines, strict=True))


def test_many_short_loops_leave_a_line_as_one_long_loop_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 5.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    for number in range(4):
        list(progress.track(range(3), f"loop {number}"))  # 15 seconds, and 5 until the next
    shown = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in shown] == ["loop 1", "loop 3"]
