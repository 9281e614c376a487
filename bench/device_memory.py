"""What a device can hold, and what one call took of it: peak memory and energy, each in a pass of its own."""

from __future__ import annotations

import ctypes
import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.timing import synchronise
from dydit.config import DiTConfig
from dydit.errors import InputError
from dydit.slices import MEMORY_SHARE

MIB = 2**20
ENERGY_SECONDS = 0.6
"""NVML's counter moves every 20 to 100 ms: energy is averaged from its first move to its last in this time."""


@dataclass(frozen=True)
class Footprint:
    """Of one call: peak memory beyond what lay there before, in MiB, and energy in joules (None: not measurable)."""

    peak_mib: float
    energy_j: float | None


def check_device(device: str, dtype: torch.dtype) -> None:
    """Raise InputError when this machine has no such device, or the device computes slowly emulated `dtype`."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"device {device!r}: unknown; use cpu or cuda") from None
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {device!r}: not supported; use cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: this machine has no CUDA device; use --device cpu")
    if dtype is torch.bfloat16:
        native = torch.cuda.is_bf16_supported(False) if kind == "cuda" else _cpu_has_bf16()
        if not native:
            raise InputError(f"dtype bf16: {device} has no native bfloat16; use --dtype fp32")


def _cpu_has_bf16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags.read_text()) is not None


def available(device: torch.device) -> int | None:
    """Bytes free on the device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text()) if info.is_file() else None
    return int(found.group(1)) * 1024 if found else None


def needed(config: DiTConfig, batch: int, dtype: torch.dtype) -> int:
    """Bytes for the weights, their bounded copies, and the widest activations of a guided batch of images."""
    size = torch.finfo(dtype).bits // 8
    width = config.hidden_size
    weights = config.depth * (4 * width**2 + 2 * width * config.mlp_hidden + 6 * width**2)
    # Residual, norm and update (3 C), hidden channels before, masked and after GELU (3 * 4 C), modulations.
    activations = 2 * batch * (config.tokens * (3 * width + 3 * config.mlp_hidden) + 6 * width)
    return int(size * (weights * (1 + MEMORY_SHARE) + activations))


def check_fits(name: str, config: DiTConfig, batch: int, device: torch.device, dtype: torch.dtype) -> None:
    """Raise InputError, naming the largest batch that fits, when a guided batch of images would not."""
    free = available(device)
    if free is None or needed(config, batch, dtype) <= free:
        return
    largest = next((size for size in range(batch, 0, -1) if needed(config, size, dtype) <= free), 0)
    wanted = needed(config, batch, dtype) / 2**30
    remedy = f"the largest batch that fits is {largest}" if largest else "not even one image fits"
    raise InputError(f"{name}, batch {batch}: needs about {wanted:.1f} GiB, {device} has {free / 2**30:.1f}; {remedy}")


def measure(call: Callable[[], object], device: torch.device) -> Footprint:
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
