"""No wrong number after a fault, nothing lost, nothing left: commands are disturbed, and the same line runs again."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fault_commands import COMMANDS, Command
from fault_harness import LOST, Harness, Outcome, different, harmed, spread

WHOLE = os.environ.get("DYDIT_FAULTS") == "whole"
DAMAGES = ("truncated", "emptied", "flipped", "removed", "directory")
KILLS, RANDOM_KILLS, FILES = 10, 2, 5
"""Of a command: changes before which it is killed, random moments, and files that are damaged."""
Fault = Callable[[], Outcome]


def some(command: Command, most: int) -> int:
    return max(1, round(most * command.share))


def few_faults(harness: Harness, command: Command) -> Iterator[Fault]:
    """A kill in the middle, two at once, a bit flipped in a file that it wrote, and one in a file that it reads."""
    (changes,) = harness.reference(command).changes
    files = harness.files(command)
    yield functools.partial(harness.killed, command, 0, changes // 2)
    yield functools.partial(harness.two_at_once, command, changes // 3)
    for path in {files[0], files[-1]}:
        yield functools.partial(harness.damaged, command, path, "flipped", 0)


def all_faults(harness: Harness, command: Command) -> Iterator[Fault]:
    reference, files = harness.reference(command), harness.files(command)
    for rank, changes in enumerate(reference.changes):
        for change in spread(changes, some(command, KILLS)):
            yield functools.partial(harness.killed, command, rank, change)
    for seed in range(some(command, RANDOM_KILLS)):
        yield functools.partial(harness.killed_at_random, command, seed)
    if command.processes > 1:
        return
    yield functools.partial(harness.two_at_once, command, reference.changes[0] // 2)
    largest = max(len(content) for path, content in reference.tree.items() if path.startswith("out/"))
    for size in (0, largest - 1):
        yield functools.partial(harness.full, command, size)
    if command.tells:
        return
    for place in spread(len(files), some(command, FILES)):
        for kind in DAMAGES:
            yield functools.partial(harness.damaged, command, files[place], kind, place)
    for path in ("out", next(path for path in files if path.startswith("out/"))):
        yield functools.partial(harness.damaged, command, path, "read-only", 0)


@pytest.mark.parametrize("command", [each for each in COMMANDS if WHOLE or each.smoke], ids=lambda each: each.name)
def test_nothing_is_wrong_or_lost_after_a_fault(command: Command, harness: Harness, outcomes: list[Any]) -> None:
    faults = list((all_faults if WHOLE else few_faults)(harness, command))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tried = list(pool.map(lambda fault: fault(), faults))
    outcomes += tried
    assert [outcome for outcome in tried if outcome.verdict == LOST] == []


def test_a_wrong_byte_or_a_file_left_behind_would_be_seen() -> None:
    whole = {"out/a": b"1", "out/b": b"2"}
    assert different(whole, whole | {"out/empty/": b""}) is None
    assert different(whole, whole | {"out/b": b"3"}) == "out/b" == different(whole, {"out/a": b"1"})
    assert different(whole, whole | {"out/.c.0a1b2c3d.partial": b""}) == "out/.c.0a1b2c3d.partial"
    damaged = whole | {"out/a": b"0"}
    assert harmed(damaged, damaged, whole) is None and harmed(damaged, whole, whole) is None
    assert harmed(damaged, {"out/a": b"0"}, whole) == "out/b is not what it was"
    assert harmed(damaged, damaged | {"out/c": b""}, whole) == "out/c was left behind"
