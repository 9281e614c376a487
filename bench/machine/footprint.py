"""What one call took of a device: peak memory and energy, each measured in a pass of its own."""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.machine.timing import synchronise

MIB = 2**20
ENERGY_SECONDS = 0.6
"""NVML's counter moves every 20 to 100 ms: energy is averaged from its first move to its last in this time."""


@dataclass(frozen=True)
class Footprint:
    """Of one call: peak memory beyond what lay there before, in MiB, and energy in joules (None: not measurable)."""

    peak_mib: float
    energy_j: float | None


def measure_footprint(call: Callable[[], object], device: torch.device) -> Footprint:
    """Peak memory of one call, then, where the device counts it, energy of one call."""
    return Footprint(peak_mib=_peak(call, device), energy_j=_energy(call, device))


def _peak(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    assert watched.profiler is not None
    moves = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(move.nbytes() for move in sorted(moves, key=lambda move: move.start_ns()))
    return max(held, default=0) / MIB


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
    """A function giving joules since the driver started; None where NVML or its counter is missing."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    # By UUID: CUDA may number devices in another order, or see some of them alone.
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()

    def failed() -> int:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)))

    def joules() -> float:
        failed()
        return millijoules.value / 1e3

    missing = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) or failed()
    return None if missing else joules
