"""Devices: which one a process has of its own."""

from __future__ import annotations

import pytest
import torch

from bench.machine import own_device
from dydit import InputError


def test_every_process_on_a_cpu_has_it() -> None:
    assert own_device("cpu", 3) == torch.device("cpu")


def test_every_process_has_a_gpu_of_its_own_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert own_device("cuda", 1) == torch.device("cuda", 1)
    with pytest.raises(InputError, match="process 2 of this machine has no GPU of its own"):
        own_device("cuda", 2)
    assert current == [torch.device("cuda", 1)]
