"""Synthetic routing meets the FLOPs it is drawn for, in every profile."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.latency import synthetic_routing
from dydit import InputError, model_config
from dydit.flops import flops_ratio


@settings(max_examples=25, deadline=None)
@example(name="DiT-S/2", ratio=127 / 128, profile="token-heavy", seed=0)  # heads round down, and all tokens fall short
@given(
    name=st.sampled_from(["DiT-S/2", "DiT-B/2", "DiT-XL/2"]),
    ratio=st.floats(0.3, 1.0),
    profile=st.sampled_from(synthetic_routing.PROFILES),
    seed=st.integers(0, 100),
)
def test_meets_the_ratio_with_one_width_for_all_images(name: str, ratio: float, profile: str, seed: int) -> None:
    config = model_config(name)
    routing = synthetic_routing.draw_routing(config, ratio, profile, batch=2, seed=seed)
    assert flops_ratio(routing, config).mean().item() == pytest.approx(ratio, abs=0.004)
    for mask in (routing.heads, routing.channels):
        assert mask[..., 0].all()
        assert torch.equal(mask[0], mask[1])


def test_profiles_put_the_saving_where_they_say() -> None:
    config = model_config("DiT-XL/2")
    by_profile = {
        name: synthetic_routing.draw_routing(config, 0.48, name, batch=2) for name in synthetic_routing.PROFILES
    }
    tokens = {name: routing.token_rate.mean().item() for name, routing in by_profile.items()}
    groups = {name: routing.channel_rate.mean().item() for name, routing in by_profile.items()}
    assert tokens["token-heavy"] < tokens["even"] < tokens["width-heavy"]
    assert groups["width-heavy"] < groups["even"] < groups["token-heavy"]


def test_is_a_function_of_its_seed() -> None:
    config = model_config("DiT-S/2")
    first, again, other = (synthetic_routing.draw_routing(config, 0.5, "even", 2, seed).tokens for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("ratio", "profile", "message"), [(0.5, "odd", "even, width-heavy"), (0.01, "even", "cannot be met")]
)
def test_refuses_what_cannot_be_drawn(ratio: float, profile: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthetic_routing.draw_routing(model_config("DiT-S/2"), ratio, profile, 1)
