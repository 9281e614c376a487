"""Tasks that depend on one another, run by several processes: as many trainings at once as there are cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from graphlib import TopologicalSorter
from multiprocessing import connection

from bench.machine.progress import status, track
from dydit import InputError
from dydit.inference import keep_freed_memory

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A named piece of work that begins when the tasks named in `needs` are done.

    `work` returns a line to show, or "" where there was nothing to do. Where several processes share the tasks, pickle
    must be able to hold it.
    """

    name: str
    work: Callable[[], str]
    needs: tuple[str, ...] = ()


def run_tasks(tasks: Sequence[Task], workers: int, description: str) -> int:
    """Run all tasks in `workers` processes of one thread each, or in this process where `workers` is 1.

    Tasks whose needs are done begin in the order of `tasks`. The first error of a task ends the run and is raised here;
    what other tasks have finished stays.

    Raises:
        InputError: a process was killed; or whatever a task raises.

    Returns:
        The number of tasks that returned a line to show.
    """
    done = _run_here(tasks) if workers == 1 else _run_in_processes(tasks, workers)
    lines = 0
    for line in track(done, description, total=len(tasks)):
        if line:
            status(line)
            lines += 1
    return lines


def _run_here(tasks: Sequence[Task]) -> Iterator[str]:
    by_name = {task.name: task for task in tasks}
    for name in _sorter(tasks).static_order():
        yield by_name[name].work()


def _run_in_processes(tasks: Sequence[Task], workers: int) -> Iterator[str]:
    by_name, order = {task.name: task for task in tasks}, [task.name for task in tasks]
    sorter = _sorter(tasks)
    sorter.prepare()
    running: dict[Future[str], str] = {}
    # Not forked: the copy of a process whose libraries have started threads may hang.
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        try:
            while sorter.is_active():
                for name in sorted(sorter.get_ready(), key=order.index):
                    running[pool.submit(by_name[name].work)] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    sorter.done(running.pop(future))
        except BrokenProcessPool:
            names = ", ".join(sorted(running.values()))
            raise InputError(
                f"a process was killed, or ran out of memory, while these were at work: {names}; repeat the run, which "
                "goes on from what is finished, with fewer --processes if memory is short"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _sorter(tasks: Sequence[Task]) -> TopologicalSorter[str]:
    return TopologicalSorter({task.name: task.needs for task in tasks})


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside this context use one thread in every library, since each has one core."""
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


def _start_worker() -> None:
    """Show no bars, which would overwrite each other (the parent shows one for all), and end with the parent.

    Memory is treated as in the parent.
    """
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open as long as the process runs
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child only"
    connection.wait([parent.sentinel])
    os._exit(1)  # after a kill the parent's queue stays silent, and the worker would wait for it for ever
