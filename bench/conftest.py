"""Options of the benchmarks, and what a saved run says of its machine, so that like is compared with like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """What may be asked of the benchmarks."""
    parser.addoption("--large", action="store_true", help="run the benchmarks that take minutes to hours, too")
    parser.addoption("--tables", type=Path, metavar="DIR", help="a folder for quality_speed.csv and its record")


def pytest_configure(config: pytest.Config) -> None:
    """Treat memory as the commands do, whose speed the benchmarks tell."""
    from dydit.inference import keep_freed_memory

    keep_freed_memory()
    config.addinivalue_line("markers", "large: takes minutes to hours; --large runs it")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what takes long, unless it is asked for."""
    if item.get_closest_marker("large") and not item.config.getoption("--large"):
        pytest.skip("takes minutes to hours; --large runs it")


def pytest_benchmark_update_machine_info(config: object, machine_info: dict[str, Any]) -> None:
    """Drop what changes from minute to minute or names a host; add what decides the speed."""
    import torch

    machine_info.pop("node", None)
    for key in [key for key in machine_info["cpu"] if key.startswith("hz_")]:
        del machine_info["cpu"][key]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    machine_info["torch"] = {"version": torch.__version__, "threads": torch.get_num_threads(), "device": device}
