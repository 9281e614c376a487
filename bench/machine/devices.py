"""Devices and dtypes of this machine: what exists, how much memory is free, and how much a network needs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from dydit import DiTConfig, InputError
from dydit.inference import MEMORY_SHARE, cpu_kernels

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The dtypes that a network can compute in, by the name that options and tables use."""


def check_device(device: str, dtype: torch.dtype) -> None:
    """Check that this machine has the device, and that the device computes in `dtype` natively.

    Raises:
        InputError: there is no such device, or it only emulates `dtype`, which is slow.
    """
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


def own_device(device: str, local_rank: int) -> torch.device:
    """The device of one process among several on a machine; a GPU becomes torch's current one, too.

    Args:
        device: `cpu`, or `cuda` for the GPU of the process's number.
        local_rank: number of the process on this machine, from 0.

    Raises:
        InputError: the machine has too few GPUs.
    """
    if device != "cuda":
        return torch.device(device)
    if local_rank >= torch.cuda.device_count():
        raise InputError(f"process {local_rank} of this machine has no GPU of its own; start fewer processes")
    own = torch.device("cuda", local_rank)
    torch.cuda.set_device(own)  # Triton launches on the current one
    return own


def _cpu_has_bf16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags.read_text()) is not None


def free_bytes(device: torch.device) -> int | None:
    """Free memory of the device, in bytes; None where the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    entry = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text()) if info.is_file() else None
    return int(entry.group(1)) * 1024 if entry else None


def needed_bytes(config: DiTConfig, batch: int, device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that a guided batch of images needs: weights, their copies, and the widest activations."""
    size = torch.finfo(dtype).bits // 8
    width = config.hidden_size
    weights = config.depth * (4 * width**2 + 2 * width * config.mlp_hidden + 6 * width**2)
    # Per token: residual, norm and update (3 C), and hidden channels before and after masking and GELU (3 * 4 C).
    # Per image: the modulations (6 C).
    activations = 2 * batch * (config.tokens * (3 * width + 3 * config.mlp_hidden) + 6 * width)
    whole_copies = int(device.type == "cpu" and cpu_kernels.serves(torch.empty(0, dtype=dtype)))
    return int(size * (weights * (1 + MEMORY_SHARE + whole_copies) + activations))


def check_fits(name: str, config: DiTConfig, batch: int, device: torch.device, dtype: torch.dtype) -> None:
    """Check that the device has memory for a guided batch of images of the network `name`.

    Raises:
        InputError: it has not; the message names the largest batch that fits.
    """
    free = free_bytes(device)
    if free is None or needed_bytes(config, batch, device, dtype) <= free:
        return
    largest = next((size for size in range(batch, 0, -1) if needed_bytes(config, size, device, dtype) <= free), 0)
    wanted = needed_bytes(config, batch, device, dtype) / 2**30
    remedy = f"the largest batch that fits is {largest}" if largest else "not even one image fits"
    raise InputError(f"{name}, batch {batch}: needs about {wanted:.1f} GiB, {device} has {free / 2**30:.1f}; {remedy}")
