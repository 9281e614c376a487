"""Peak memory and energy of one call."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.machine import footprint
from bench.machine.footprint import measure_footprint


def test_peak_memory_sees_an_allocation() -> None:
    cost = measure_footprint(lambda: torch.ones(64 * 2**20 // 4).sum(), torch.device("cpu"))
    assert cost.peak_mib == pytest.approx(64, abs=0.1)
    assert cost.energy_j is None


def test_the_profilers_own_log_is_silent() -> None:
    program = (
        "import torch\n"
        "from bench.machine import measure_footprint\n"
        "print(measure_footprint(lambda: torch.ones(2**20), torch.device('cpu')).peak_mib)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("4.0\n", "")


@pytest.mark.parametrize(
    ("missing", "energy"),
    [("", 2.0), ("nvmlInit_v2", None), ("nvmlDeviceGetTotalEnergyConsumption", None)],
)
def test_energy_is_what_the_drivers_counter_gains_a_call(
    missing: str, energy: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    def consumption(_: object, millijoules: Any) -> int:
        millijoules._obj.value = 10**6 + calls // 2 * 4000  # moves at every second call
        return 0

    nvml = SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByUUID=lambda uuid, _: int(uuid != b"GPU-12-34"),
        nvmlDeviceGetTotalEnergyConsumption=consumption,
    )
    if missing:
        setattr(nvml, missing, lambda *_: 3)
    monkeypatch.setattr(footprint.ctypes, "CDLL", lambda _: nvml)
    monkeypatch.setattr(footprint, "ENERGY_SECONDS", 0.01)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="12-34"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    assert footprint._energy(call, torch.device("cuda")) == energy


def test_energy_is_unknown_without_the_drivers_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(footprint.ctypes, "CDLL", absent)
    assert footprint._energy(lambda: None, torch.device("cuda")) is None
