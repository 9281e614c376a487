"""The processes of one run as torchrun starts them: which one this is, and how they wait for and stop one another."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from dydit import InputError, first_line

T = TypeVar("T")

PATIENCE = timedelta(days=14)
"""How long the first process to finish waits for the others."""


@dataclass
class ProcessGroup:
    """One process among `size`, with number `rank`, and `local_rank` on its machine; by default the only process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _patient: Any = field(default=None, init=False, repr=False)

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """The process that RANK, WORLD_SIZE and LOCAL_RANK describe, which torchrun sets.

        Raises:
            InputError: they are no numbers, or contradict each other.
        """
        values = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        if values["WORLD_SIZE"] is None:
            return cls()
        try:
            group = cls(*(int(value or 0) for value in values.values()))
        except ValueError:
            group = cls(0, 0)
        if not 0 <= group.rank < group.size or group.local_rank < 0:
            shown = ", ".join(f"{name}={value}" for name, value in values.items())
            raise InputError(f"environment: {shown} name no process; start the processes with torchrun, or unset them")
        return group

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes for all."""
        return self.rank == 0

    @contextlib.contextmanager
    def connected(self, backend: str = "gloo") -> Iterator[None]:
        """Inside this context the process is connected to the others, whose address the environment holds.

        `backend` is that of torch.distributed; it must include gloo, through which objects and CPU tensors are sent.

        Raises:
            InputError: the environment holds no address, the other processes do not answer, or one of them ended.
        """
        if self.size == 1:
            yield
            return
        try:
            dist.init_process_group(backend)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{self.size} processes cannot meet ({first_line(error)}); start them with torchrun"
            ) from None
        try:
            self._patient = dist.new_group(timeout=PATIENCE)
            yield
        except RuntimeError as error:
            if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise InputError(
                f"process {self.rank}: another process of the run ended or cannot be reached ({first_line(error)}); "
                "see what it says, and start all of them again: the run goes on from what is written"
            ) from error
        finally:
            dist.destroy_process_group()

    def agree(self, call: Callable[[], T]) -> T:
        """The result of `call()` in this process; where one process raises InputError, all of them stop.

        Raises:
            InputError: in the first process, that of the lowest rank which raised one; the others exit with status 2.
        """
        if self.size == 1:
            return call()
        results: list[T] = []
        refusal: str | None = None
        try:
            results.append(call())
        except InputError as error:
            refusal = str(error)
        refusals: list[str | None] = [None] * self.size
        dist.all_gather_object(refusals, refusal)
        for message in refusals:
            if message is not None:
                if self.first:
                    raise InputError(message)
                sys.exit(2)
        return results[0]

    def share(self, value: T) -> T:
        """The first process's value, in every process; pickle must be able to hold it."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def check_equal(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Refuse to work together where the processes were given different things.

        Args:
            facts: called, where there are several processes, for what this one was given, by name; a value may be a
                mapping of its own, and pickle must be able to hold it.

        Raises:
            InputError: as `agree`, with the first fact in which a process differs from the first one.
        """
        if self.size > 1:
            found: list[Any] = [None] * self.size
            dist.all_gather_object(found, dict(facts()))
            self.agree(lambda: _check_equal(found))

    def wait(self) -> None:
        """Return once every process has called this."""
        if self.size > 1:
            dist.barrier(group=self._patient)


def _check_equal(found: list[Mapping[str, Any]]) -> None:
    for rank, facts in enumerate(found):
        if (differs := _difference(found[0], facts)) is not None:
            name, first, own = differs
            raise InputError(
                f"processes 0 and {rank} were not given the same: {name} is {first!s:.150} in one and {own!s:.150} in "
                "the other; start all with one command, the same files and the same versions"
            )


def _difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The name of the first value that differs, with both values; None where none does."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return None if one == other else (name, one, other)
    for key in dict.fromkeys((*one, *other)):
        inner = f"{name}.{key}" if name else str(key)
        if (differs := _difference(one.get(key), other.get(key), inner)) is not None:
            return differs
    return None
