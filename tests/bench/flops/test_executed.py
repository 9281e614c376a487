"""Executed multiply-adds of a network of anyone, beside its claim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.flops.executed import candidate_table, count_candidate
from bench.latency.alternatives import to_diffusers
from bench.models import candidate_of
from bench.records import shipped_data
from dydit import DiT, InputError, checkpoint, macs
from dydit.baselines import apply_method
from dydit.flops import GIGA

STEPS = 6


class Halving(nn.Module):
    """Runs one product of 16 x 16 matrices on even steps and none on odd ones, and claims that it runs none."""

    in_channels, input_size, num_classes = 1, 16, 3

    def begin_run(self, timesteps: list[int]) -> None:
        self.timesteps = timesteps

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x if self.timesteps.index(int(t[0])) % 2 else 0 * (x @ x)

    def claimed_macs(self) -> float:
        return 16**3


def test_what_runs_is_counted_whatever_is_claimed() -> None:
    found = count_candidate(candidate_of(Halving(), "halving"), steps=5, images=2)
    assert (found.least, found.most) == (0, 16**3)
    assert found.executed == pytest.approx(3 / 5 * 16**3)
    assert found.gap == pytest.approx(-0.4)


@pytest.mark.parametrize("text", ["none", "tome:0.5", "skip:/1+2", "deepcache:2", "fora:3", "taylorseer:2:1"])
def test_the_formulas_of_the_methods_hold_over_a_run(text: str) -> None:
    model, _ = checkpoint.load_model(shipped_data() / "digits" / "dit-m.safetensors")
    found = count_candidate(candidate_of(apply_method(model, text), text), steps=STEPS)
    assert found.gap == pytest.approx(0.0, abs=0.005)


def test_the_table_has_both_counts_and_the_gap() -> None:
    model = DiT(input_size=8, patch_size=2, in_channels=1, hidden_size=48, depth=2, num_heads=4, num_classes=3)
    candidate = candidate_of(model, "static")
    row = candidate_table(candidate, count_candidate(candidate, steps=2), steps=2, images=1).iloc[0]
    assert row["executed_gmacs"] == row["claimed_gmacs"] == macs(model.config).total() / GIGA
    assert (row["gap"], row["sampler"], row["branches"]) == (0.0, "ddpm", 2)


def test_an_operator_of_unknown_cost_is_one_line() -> None:
    class Sorting(Halving):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return torch.linalg.inv(x + 9 * torch.eye(16))

    with pytest.raises(InputError, match="no formula for aten"):
        count_candidate(candidate_of(Sorting(), "sorting"), steps=2)


def test_a_network_of_another_library_goes_through_the_protocol() -> None:
    """The DiT of diffusers, as docs/compare-your-method.md wraps it: the same function, and what runs is counted."""

    class Wrapped(nn.Module):
        in_channels, input_size, num_classes = 1, 8, 10

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.network(x, timestep=t, class_labels=y).sample

    model, _ = checkpoint.load_model(shipped_data() / "digits" / "dit-m.safetensors")
    found = candidate_of(Wrapped(to_diffusers(model)), "diffusers")
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([500, 500]), torch.tensor([1, 10])
    torch.testing.assert_close(found.module(x, t, y), model(x, t, y), rtol=1e-3, atol=1e-3)
    # Each of its blocks embeds timestep and label anew.
    width, blocks = model.config.hidden_size, model.config.depth
    again = blocks * (256 * width + width**2)
    assert count_candidate(found, steps=2).executed == pytest.approx(macs(model.config).total() + again, rel=0.01)
