"""The processes of one run as torchrun starts them: who this one is, and how all of them agree."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
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
    """One process among `size`, numbered `rank`, the `local_rank`-th of its machine; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _patient: Any = field(default=None, init=False, repr=False)

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """What RANK, WORLD_SIZE and LOCAL_RANK say, which torchrun sets.

        Raises:
            InputError: they are no numbers, or contradict each other.
        """
        given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        if given["WORLD_SIZE"] is None:
            return cls()
        try:
            world = cls(*(int(value or 0) for value in given.values()))
        except ValueError:
            world = cls(0, 0)
        if not 0 <= world.rank < world.size or world.local_rank < 0:
            said = ", ".join(f"{name}={value}" for name, value in given.items())
            raise InputError(f"environment: {said} name no process; start the processes with torchrun, or unset them")
        return world

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and assembles."""
        return self.rank == 0

    @contextlib.contextmanager
    def connected(self, backend: str = "gloo") -> Iterator[None]:
        """Join the other processes, as the environment says where.

        `backend` is torch.distributed's: objects and CPU tensors go through gloo, so it must be part of it.

        Raises:
            InputError: the environment does not say where, or they do not come.
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
        finally:
            dist.destroy_process_group()

    def agree(self, call: Callable[[], T]) -> T:
        """This process's own `call()`; when one process refuses its input, all stop and the first one says why.

        Raises:
            InputError: in the first process, the refusal of the lowest rank; the others exit with status 2.
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
        for told in refusals:
            if told is not None:
                if self.first:
                    raise InputError(told)
                sys.exit(2)
        return results[0]

    def share(self, value: T) -> T:
        """The first process's value, in every process; it must be fit for pickle."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            dist.barrier(group=self._patient)
