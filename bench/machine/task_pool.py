"""Tasks that wait for one another, run by several processes: as many trainings at once as there are cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from multiprocessing import connection

from bench.machine.progress import status, track

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """Work by name, which begins when that of `needs` is done.

    `work` returns a line to show, or "" where there was nothing to do; where several processes share the tasks it must
    be picklable.
    """

    name: str
    work: Callable[[], str]
    needs: tuple[str, ...] = ()


def run_tasks(tasks: Sequence[Task], workers: int, description: str) -> int:
    """Do all tasks, those that are free in the order given; `workers` processes of one thread each, or this one.

    The first error of a task ends the run and is raised here; what the others have finished stays.

    Returns:
        How many had something to say.
    """
    done = _here(tasks) if workers == 1 else _shared(tasks, workers)
    lines = 0
    for line in track(done, description, total=len(tasks)):
        if line:
            status(line)
            lines += 1
    return lines


def _here(tasks: Sequence[Task]) -> Iterator[str]:
    by_name = {task.name: task for task in tasks}
    for name in _sorter(tasks).static_order():
        yield by_name[name].work()


def _shared(tasks: Sequence[Task], workers: int) -> Iterator[str]:
    by_name, order = {task.name: task for task in tasks}, [task.name for task in tasks]
    sorter = _sorter(tasks)
    sorter.prepare()
    running: dict[Future[str], str] = {}
    # Not forked: a copy of a process whose libraries have started threads may hang.
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, context, initializer=_begin) as pool:
        try:
            while sorter.is_active():
                for name in sorted(sorter.get_ready(), key=order.index):
                    running[pool.submit(by_name[name].work)] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    sorter.done(running.pop(future))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _sorter(tasks: Sequence[Task]) -> TopologicalSorter[str]:
    return TopologicalSorter({task.name: task.needs for task in tasks})


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """One thread in every library of the processes started inside: they have a core each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin() -> None:
    """No bars, which would write over each other: the parent shows one for all. And no life after the parent's."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child only"
    connection.wait([parent.sentinel])
    os._exit(1)  # a killed parent says no goodbye, and its queue would be waited on for ever
