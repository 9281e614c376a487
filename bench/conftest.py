"""What a saved benchmark run says of its machine, so that `pytest-benchmark compare` compares like with like."""

from __future__ import annotations

from typing import Any


def pytest_configure(config: object) -> None:
    """Treat memory as the commands do, whose speed the benchmarks tell."""
    from dydit.inference import keep_freed_memory

    keep_freed_memory()


def pytest_benchmark_update_machine_info(config: object, machine_info: dict[str, Any]) -> None:
    """Drop what changes from minute to minute or names a host; add what decides the speed."""
    import torch

    machine_info.pop("node", None)
    for key in [key for key in machine_info["cpu"] if key.startswith("hz_")]:
        del machine_info["cpu"][key]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    machine_info["torch"] = {"version": torch.__version__, "threads": torch.get_num_threads(), "device": device}
