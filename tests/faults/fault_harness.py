"""A command is disturbed, the same line runs again, and what lies there then is held against an undisturbed run."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import shutil
import socket
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fault_child
from fault_commands import Command, make_input

Tree = Mapping[str, bytes]
SAME, REFUSED, LOST = "same", "refused", "lost"
"""Verdicts: the bytes of an undisturbed run; one line with the remedy, status 2, nothing else changed; neither."""
PATIENCE = 120
"""Seconds that a command may take."""
PROGRAM = "import fault_child; fault_child.run(*{arguments!r})"
KINDS = {
    "killed": "before each file that it opens for writing, renames or removes, and at random moments",
    "full disk": "no file could grow beyond a size",
    "two at once": "a second one was started while the first was writing",
    "read-only": "one file of its results, or their directory, could not be written",
    "truncated": "a file that it wrote or reads was cut in half",
    "emptied": "such a file was emptied",
    "flipped": "one bit of such a file was changed",
    "removed": "one file of its results was removed",
    "directory": "a directory lay in the place of such a file",
}
"""Every kind of fault, in words that follow `the command: `."""


@dataclass(frozen=True)
class Outcome:
    """What became of one fault; `reason` says what is wrong where it was lost."""

    command: str
    kind: str
    what: str
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Ended:
    """How processes that worked together ended: their statuses, and what they printed on standard error."""

    statuses: tuple[int | None, ...]
    told: tuple[str, ...]

    @property
    def succeeded(self) -> bool:
        return set(self.statuses) == {0}

    @property
    def refusal(self) -> str | None:
        """The line of the first process, where all were refused as they should be; None where they were not."""
        lines = self.told[0].splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        plain = not any("Traceback" in text for text in self.told)
        return errors[0] if set(self.statuses) == {2} and plain and errors == lines[-1:] else None

    def __str__(self) -> str:
        shown = " | ".join(" ... ".join(text.strip().splitlines()[-2:])[-400:] for text in self.told)
        return f"statuses {list(self.statuses)}: {shown}"


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run leaves, how many changes each process makes on the way, and its time in seconds."""

    tree: Tree
    changes: tuple[int, ...]
    seconds: float


class Harness:
    """Runs commands with and without faults, each in a directory of its own below `folder`."""

    def __init__(self, start: Callable[..., Any], folder: Path) -> None:
        self._start, self._folder, self._numbers = start, folder, itertools.count()
        self._references: dict[str, Reference] = {}
        self._inputs = folder / "inputs"
        self._inputs.mkdir()

    def reference(self, command: Command) -> Reference:
        """The undisturbed run; it runs twice, and must leave the same bytes."""
        if command.name not in self._references:
            began, trees = time.monotonic(), []
            for plan in ({}, {"counted": str(self._folder / "counted")}):
                place = self._place(command)
                ended = self._run(command, place, plan)
                assert ended.succeeded, f"{command.name}: {ended}"
                trees.append(tree(place))
            seconds = (time.monotonic() - began) / 2
            assert (differ := different(*trees)) is None, f"{command.name}: {differ} differs between equal runs"
            counts = (self._folder / f"counted{rank}" for rank in range(command.processes))
            changes = tuple(int(path.read_text()) for path in counts)
            self._references[command.name] = Reference(trees[0], changes, seconds)
        return self._references[command.name]

    def killed(self, command: Command, rank: int, change: int) -> Outcome:
        """One process is killed before a change; those beside it end by themselves."""
        place = self._place(command)
        self._run(command, place, {"kill": change, "rank": rank})
        return self._again(command, "killed", f"process {rank} before change {change}", place)

    def killed_at_random(self, command: Command, seed: int) -> Outcome:
        """All processes are killed at one moment."""
        place, moment = self._place(command), random.Random(seed).uniform(0, self.reference(command).seconds)
        self._run(command, place, {}, moment)
        return self._again(command, "killed", f"after {moment:.2f} s", place)

    def full(self, command: Command, size: int) -> Outcome:
        """No file larger than `size` bytes could be written."""
        place = self._place(command)
        ended = self._run(command, place, {"bytes": size})
        what = f"files of at most {size} bytes"
        if not ended.succeeded and ended.refusal is None:
            return Outcome(command.name, "full disk", what, LOST, str(ended))
        return self._again(command, "full disk", what, place)

    def two_at_once(self, command: Command, change: int) -> Outcome:
        """A second command comes while the first pauses before a change."""
        room = self._folder / f"pair{next(self._numbers)}"
        place = self._place(command, room)
        what = f"a second one before change {change}"
        first = self._begin(command, place, {"pause": change})
        wait_for(lambda: (room / fault_child.PAUSED).exists() or not first[0][0].is_alive())
        second = self._run(command, place, {})
        (room / fault_child.GO).touch()
        ended = self._end(first)
        if not ended.succeeded:
            return Outcome(command.name, "two at once", what, LOST, f"the first: {ended}")
        if second.refusal is None or "another run is writing" not in second.refusal:
            return Outcome(command.name, "two at once", what, LOST, f"the second: {second}")
        return self._judged(command, "two at once", what, place)

    def damaged(self, command: Command, path: str, kind: str, seed: int) -> Outcome:
        """A file, or for `read-only` the directory `out`, is damaged: before the command where it reads it, else after.

        The same line then makes it again, or refuses.
        """
        place = self._place(command)
        read = not path.startswith("out")
        if not read:
            ended = self._run(command, place, {})
            assert ended.succeeded, f"{command.name}: {ended}"
        what = f"{path}, {damage(place / path, kind, seed)}"
        before = tree(place)
        ended = self._run(command, place, {"bound": kind == "read-only"})
        if kind == "read-only":
            (place / path).chmod(0o755 if (place / path).is_dir() else 0o644)
        if ended.succeeded:
            return self._judged(command, kind, what, place, path if read else None)
        if ended.refusal is None:
            return Outcome(command.name, kind, what, LOST, str(ended))
        if (changed := harmed(before, tree(place), self.reference(command).tree)) is not None:
            return Outcome(command.name, kind, what, LOST, f"refused, but {changed}")
        return Outcome(command.name, kind, what, REFUSED, ended.refusal)

    def files(self, command: Command) -> list[str]:
        """The files that may be damaged: all that an undisturbed run leaves, but for spare ones, and those it reads."""
        there = sorted(path for path in self.reference(command).tree if path not in command.spare)
        return [path for path in there if path.startswith(("out/", *command.reads))]

    def _again(self, command: Command, kind: str, what: str, place: Path) -> Outcome:
        ended = self._run(command, place, {})
        outcome = self._judged(command, kind, what, place)
        if ended.succeeded:
            return outcome
        if ended.refusal is not None and outcome.verdict == SAME:  # the kill came after all was written
            return Outcome(command.name, kind, what, REFUSED, ended.refusal)
        return Outcome(command.name, kind, what, LOST, f"the same line again: {ended}")

    def _judged(self, command: Command, kind: str, what: str, place: Path, damaged: str | None = None) -> Outcome:
        """Whether the bytes are those of an undisturbed run; a file that was damaged before it was read stays so."""
        reference, there = dict(self.reference(command).tree), dict(tree(place))
        for each in (reference, there):
            each.pop(damaged or "", None)
        wrong = different(reference, there)
        return Outcome(command.name, kind, what, SAME if wrong is None else LOST, f"{wrong} differs" if wrong else "")

    def _input(self, name: str) -> Path:
        """What commands work on, made when it is first asked for."""
        path = self._inputs / name
        if not path.exists():
            make_input(name, path, self._made)
        return path

    def _made(self, line: str, files: Mapping[str, str]) -> Path:
        """The results of a command, for others to work on."""
        command = Command(line, line, files)
        place = self._place(command)
        ended = self._run(command, place, {})
        assert ended.succeeded, f"{line}: {ended}"
        return place / "out"

    def _place(self, command: Command, room: Path | None = None) -> Path:
        """A new directory with what a command works on."""
        place = (room or self._folder / f"run{next(self._numbers)}") / "work"
        place.mkdir(parents=True)
        for path, name in command.files.items():
            copy(self._input(name), place / path)
        return place

    def _run(self, command: Command, place: Path, plan: dict[str, Any], moment: float | None = None) -> Ended:
        return self._end(self._begin(command, place, plan), moment)

    def _begin(self, command: Command, place: Path, plan: dict[str, Any]) -> list[tuple[Any, Path]]:
        """Start the processes of a command; one of them gets the fault."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        started = []
        for rank in range(command.processes):
            log = place.parent / f"log{next(self._numbers)}"
            mine = plan if plan.get("rank", rank) == rank else {}
            arguments = (command.line.split(), str(place), command.setup, mine, str(log))
            environment = {"WORLD_SIZE": str(command.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            code = PROGRAM.format(arguments=arguments)
            process = self._start(code, log.with_suffix(".raw"), environment if command.processes > 1 else {})
            started.append((process, log))
        return started

    def _end(self, started: list[tuple[Any, Path]], moment: float | None = None) -> Ended:
        if moment is not None:
            time.sleep(moment)
            for process, _ in started:
                process.kill()
        for process, _ in started:
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                process.join()
        told = (log.read_text() if log.exists() else "" for _, log in started)
        return Ended(tuple(self._status(*each) for each in started), tuple(told))

    def _status(self, process: Any, log: Path) -> int | None:
        """As the process itself told, where it came so far: under load the server that started it may lose it."""
        own = log.with_suffix(".status")
        status: int | None = int(own.read_text()) if own.exists() else process.exitcode
        return status


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def tree(place: Path) -> Tree:
    """The content of all files below a directory, and an empty one for what is no file where one should be."""
    found = {}
    for folder, folders, files in os.walk(place):
        for name in files:
            path = Path(folder, name)
            # A page may tell where it lies.
            found[path.relative_to(place).as_posix()] = path.read_bytes().replace(str(place).encode(), b"PLACE")
        for name in folders:
            if not any(Path(folder, name).iterdir()):
                found[Path(folder, name).relative_to(place).as_posix() + "/"] = b""
    return found


def different(one: Tree, other: Tree) -> str | None:
    """The first path whose content differs; empty folders do not count."""
    paths = sorted(path for path in one.keys() | other.keys() if not path.endswith("/"))
    return next((path for path in paths if _meaning(one.get(path)) != _meaning(other.get(path))), None)


OWN = ("seconds", "trained", "content_sha256")
"""Of a record: how long this very run took and how many models it trained, both less in a run that goes on."""


def _meaning(content: bytes | None) -> Any:
    """What a file says: the members of an archive, a record without `OWN`, the bytes of any other file."""
    with contextlib.suppress(ValueError):
        record = json.loads(content or b"")
        if isinstance(record, dict):
            return {key: value for key, value in record.items() if key not in OWN}
    try:
        with zipfile.ZipFile(io.BytesIO(content or b"")) as archive:
            return [(member.filename, archive.read(member)) for member in archive.infolist()]
    except Exception:  # no archive, or a damaged one
        return content


def harmed(before: Tree, after: Tree, reference: Tree) -> str | None:
    """What a refused command did to files: one that was whole is gone or another, or something was left behind."""
    for path in sorted(before.keys() | after.keys()):
        if path.endswith("/") or before.get(path) == after.get(path) or after.get(path) == reference.get(path):
            continue
        if path not in before:
            return f"{path} was left behind"
        if before[path] == reference.get(path):
            return f"{path} is not what it was"
    return None


def damage(path: Path, kind: str, seed: int) -> str:
    """Damage a file; what was done, in words."""
    content = path.read_bytes() if path.is_file() else b""
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "flipped" and content:
        bit = random.Random(f"{path.name} {seed}").randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        return f"bit {bit}"
    elif kind == "read-only":
        path.chmod(0o555 if path.is_dir() else 0o444)
    elif kind in ("removed", "directory"):
        path.unlink()
        if kind == "directory":
            path.mkdir()
    return kind


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def spread(count: int, most: int) -> Iterator[int]:
    """At most `most` of the numbers below `count`, the first and the last among them."""
    yield from sorted({round(place * (count - 1) / max(most - 1, 1)) for place in range(min(count, most))})
