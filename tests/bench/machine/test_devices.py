"""What does not fit a device is refused with the largest batch that does."""

from __future__ import annotations

import pytest
import torch

from bench.machine import devices
from dydit import InputError, model_config


def test_a_batch_that_memory_does_not_hold_names_the_largest_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    config = model_config("DiT-XL/2")
    cpu = torch.device("cpu")
    monkeypatch.setattr(devices, "free_bytes", lambda _: devices.needed_bytes(config, 3, torch.float32))
    devices.check_fits("DiT-XL/2", config, 3, cpu, torch.float32)
    with pytest.raises(InputError, match="the largest batch that fits is 3"):
        devices.check_fits("DiT-XL/2", config, 8, cpu, torch.float32)
