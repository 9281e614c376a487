"""What holds for every method: nothing to leave out is the network itself, and no run knows of another."""

from __future__ import annotations

import pytest
import torch

from dydit import DiT, DyDiT, InputError, Routing, macs
from dydit.ablations.networks import SoftGated
from dydit.baselines import BranchCache, MergingBlocks, Method, ReusedBlocks, apply_method

IDLE = ("none", "tome:0", "skip:", "deepcache:1", "fora:1", "taylorseer:1:2")
BUSY = ("tome:0.5", "skip:/1", "deepcache:2", "fora:2", "taylorseer:2:1")
STATEFUL = ("skip:/1", "deepcache:2", "fora:2", "taylorseer:2:1")


@pytest.mark.parametrize("text", IDLE)
def test_a_method_that_leaves_nothing_out_is_the_static_model(build, sampled, text: str) -> None:
    model = build(DiT)
    torch.testing.assert_close(sampled(apply_method(model, text)), sampled(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", [text for text in IDLE if not text.startswith("tome")])
def test_a_method_that_leaves_nothing_out_is_the_masked_dydit(build, sampled, text: str) -> None:
    model = build(DyDiT)
    torch.testing.assert_close(sampled(apply_method(model, text)), sampled(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", BUSY)
def test_a_method_that_leaves_something_out_is_another_function(build, sampled, text: str) -> None:
    model = build(DiT)
    assert not torch.allclose(sampled(apply_method(model, text)), sampled(model), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", [DiT, DyDiT])
@pytest.mark.parametrize("text", STATEFUL)
def test_a_run_leaves_nothing_for_the_next(build, sampled, kind: type[DiT], text: str) -> None:
    method = apply_method(build(kind), text)
    alone = sampled(apply_method(build(kind), text), seed=1)
    sampled(method, seed=0)
    assert torch.equal(sampled(method, seed=1), alone)


@pytest.mark.parametrize("text", STATEFUL)
def test_a_run_that_broke_off_leaves_nothing_for_the_next(build, draw, sampled, timesteps, text: str) -> None:
    model = build(DiT)
    method, alone = apply_method(model, text), sampled(apply_method(model, text))
    x, _, y = draw(model, n=3)
    method.begin_run(timesteps)
    method(x, torch.full((3,), timesteps[0]), y)
    assert torch.equal(sampled(method), alone)


def test_methods_that_share_a_network_do_not_change_it(build, sampled) -> None:
    model = build(DiT)
    before = sampled(model)
    for text in BUSY:
        sampled(apply_method(model, text))
    assert torch.equal(sampled(model), before)


@pytest.mark.parametrize("text", STATEFUL)
def test_a_step_out_of_turn_is_refused(build, draw, refusal, timesteps, text: str) -> None:
    model = build(DiT)
    x, _, y = draw(model, n=3)
    method = apply_method(model, text)
    with refusal("call begin_run(timesteps) before the first step"):
        method(x, torch.full((3,), timesteps[0]), y)
    method.begin_run(timesteps)
    with refusal(f"step 0 of the run is timestep {timesteps[0]}", f"call is at {timesteps[2]}"):
        method(x, torch.full((3,), timesteps[2]), y)
    for step in timesteps:
        method(x, torch.full((3,), step), y)
    with refusal("has ended"):
        method(x, torch.full((3,), timesteps[0]), y)


def test_a_claim_that_depends_on_the_steps_waits_for_them(build, refusal) -> None:
    with refusal("call begin_run(timesteps) first"):
        apply_method(build(DiT), "fora:2").claimed_macs()
    assert apply_method(build(DyDiT), "fora:2").claimed_macs() is None


def test_methods_that_do_not_fit_are_refused(build, refusal) -> None:
    with refusal("SoftGated", "skips in its own way"):
        apply_method(build(SoftGated), "fora:2")
    with refusal("MergingBlocks", "DyDiT", "static DiT"):
        apply_method(build(DyDiT), "tome:0.5")
    with refusal("two methods"):
        Method(build(DiT), ReusedBlocks(2), BranchCache(2))


def test_merging_and_reuse_of_blocks_go_together(build, sampled) -> None:
    model = build(DiT)
    both = Method(model, ReusedBlocks(2), MergingBlocks(0.5))
    assert torch.isfinite(sampled(both)).all()
    merged, reused = apply_method(model, "tome:0.5"), apply_method(model, "deepcache:2")
    sampled(merged), sampled(reused)
    assert both.claimed_macs() < min(merged.claimed_macs(), reused.claimed_macs())


def test_masks_from_outside_are_run_by_and_claimed(build) -> None:
    dynamic = build(DyDiT)
    config = dynamic.config
    routing = Routing.random((2, config.depth, config.num_heads, config.tokens), (0.5, 0.5, 0.5))
    method = Method(dynamic, routing=routing)
    x = torch.randn(2, config.in_channels, config.input_size, config.input_size)
    t, y = torch.tensor([500, 500]), torch.tensor([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(method(x, t, y), dynamic.route(x, t, y, routing)[0], rtol=1e-4, atol=1e-5)
    assert method.claimed_macs() == macs(config, routing).total()
    with pytest.raises(InputError, match="takes no masks"):
        Method(DiT(**config.kwargs()), routing=routing)
