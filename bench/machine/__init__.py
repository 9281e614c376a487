"""The machine at hand: devices, threads, timing, memory, processes and progress.

Uses no other room of bench.
"""

from bench.machine.devices import DTYPES, check_device, check_fits, free_bytes, needed_bytes, own_device
from bench.machine.footprint import MIB, Footprint, measure_footprint
from bench.machine.matrix_rate import dense_product
from bench.machine.process_group import ProcessGroup
from bench.machine.progress import status, track
from bench.machine.task_pool import Task, run_tasks
from bench.machine.threads import arithmetic, arithmetic_name, check_arithmetic, cpu_threads
from bench.machine.timing import Budget, Call, Timed, in_turns, speedup, synchronise

__all__ = [
    "DTYPES",
    "MIB",
    "Budget",
    "Call",
    "Footprint",
    "ProcessGroup",
    "Task",
    "Timed",
    "arithmetic",
    "arithmetic_name",
    "check_arithmetic",
    "check_device",
    "check_fits",
    "cpu_threads",
    "dense_product",
    "free_bytes",
    "in_turns",
    "measure_footprint",
    "needed_bytes",
    "own_device",
    "run_tasks",
    "speedup",
    "status",
    "synchronise",
    "track",
]
