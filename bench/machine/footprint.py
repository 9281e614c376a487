"""What one call costs a device beside time: peak memory and energy, each measured in a pass of its own."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.machine.timing import synchronise

MIB = 2**20
ENERGY_SECONDS = 0.6
"""For how long calls are repeated to measure energy: NVML's counter moves every 20 to 100 ms, and the energy of one
call is the mean between the counter's first and last move in this time."""


@dataclass(frozen=True)
class Footprint:
    """Cost of one call: peak memory beyond what was allocated before, in MiB; energy in joules (None: no counter)."""

    peak_mib: float
    energy_j: float | None


def measure_footprint(call: Callable[[], object], device: torch.device) -> Footprint:
    """Peak memory of one call, and then, where the device has a counter, the energy of one call."""
    return Footprint(peak_mib=_peak(call, device), energy_j=_energy(call, device))


def _peak(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    # The profiler writes a log of its own to standard error, unless this variable is set before its first use.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    assert profile.profiler is not None
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    in_use = itertools.accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns()))
    return max(in_use, default=0) / MIB


def _energy(call: Callable[[], object], device: torch.device) -> float | None:
    if device.type != "cuda" or (joules := _energy_counter(device)) is None:
        return None
    calls, moves, began = 0, [(0, joules())], time.perf_counter()
    while calls < 3 or time.perf_counter() - began < ENERGY_SECONDS:
        call()
        synchronise(device)
        calls += 1
        if (now := joules()) != moves[-1][1]:
            moves.append((calls, now))
    if len(moves) < 3:
        return None
    (first, before), (last, after) = moves[1], moves[-1]
    return (after - before) / (last - first)


def _energy_counter(device: torch.device) -> Callable[[], float] | None:
    """A function that returns the joules since the driver started; None where NVML or its counter is missing."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    # By UUID: CUDA may number the devices in another order, or see only some of them.
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()

    def read_counter() -> int:
        """NVML's error code, 0 for success; the value goes to `millijoules`."""
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)))

    def joules() -> float:
        read_counter()
        return millijoules.value / 1e3

    error = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) or read_counter()
    return None if error else joules
