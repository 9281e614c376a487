from __future__ import annotations

import pytest
import torch
from diffusers import CacheMixin, TaylorSeerCacheConfig
from diffusers.hooks import apply_taylorseer_cache

from dydit import DiT, DyDiT
from dydit.baselines import BranchCache, Method, ReusedBlocks, apply_method


@pytest.mark.parametrize(("text", "order"), [("fora:3", 0), ("taylorseer:2:1", 1), ("taylorseer:2:2", 2)])
def test_branches_are_kept_as_the_hooks_of_diffusers_keep_them(build, sampled, text: str, order: int) -> None:
    """An independent implementation, which changes a network's modules; order 0 of it is FORA."""
    hooked = build(DiT, depth=3)
    config = TaylorSeerCacheConfig(
        cache_interval=int(text.split(":")[1]),
        disable_cache_before_step=-1,  # so that the first step is computed, and every N-th after it
        max_order=order,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"blocks\.\d+\.attn", r"blocks\.\d+\.mlp"],
    )
    apply_taylorseer_cache(hooked, config)
    with CacheMixin.cache_context(hooked, "run"):
        wanted = sampled(hooked)
    torch.testing.assert_close(sampled(apply_method(build(DiT, depth=3), text)), wanted, rtol=1e-3, atol=1e-3)


def test_reused_blocks_add_what_they_added_before(build, draw, timesteps) -> None:
    model = build(DiT, depth=3)
    x, _, y = draw(model)
    method = Method(model, ReusedBlocks(2, shallow=1))
    method.begin_run(timesteps)
    first, second = (torch.full((3,), step) for step in timesteps[:2])
    with torch.no_grad():
        method(x, first, y)
        tokens, _, c = model.embed(x, first, y)
        after_one = model.blocks[0](tokens, c)
        update = model.blocks[2](model.blocks[1](after_one, c), c) - after_one
        tokens, _, c = model.embed(-x, second, y)
        wanted = model.unpatchify(model.final_layer(model.blocks[0](tokens, c) + update, c))
    torch.testing.assert_close(method(-x, second, y), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("closed", [0.0, 0.5, 1.0])
def test_on_a_dydit_the_updates_of_closed_tokens_stay_zero(build, draw, timesteps, closed: float) -> None:
    """At one input the step between forecasts what the computed step was: masks, too."""
    model = build(DyDiT)
    with torch.no_grad():
        for block in model.blocks:
            bias = block.token_selection.mlp_head[2].bias
            bias.fill_({0.0: 1e3, 0.5: bias.item(), 1.0: -1e3}[closed])
            block.adaLN_modulation[1].weight.zero_()  # so that gates and shifts do not follow the step
    x, t, y = draw(model)
    steps = (timesteps[0], timesteps[0])
    method = apply_method(model, "fora:2")
    method.begin_run(steps)
    t = torch.full((3,), steps[0])
    torch.testing.assert_close(method(x, t, y), method(x, t, y), rtol=1e-4, atol=1e-4)


def test_a_polynomial_course_is_forecast_exactly() -> None:
    """Outputs that are linear in the step: order 1 continues them, order 0 does not."""
    for order, exact in ((0, False), (1, True)):
        cache = BranchCache(2, order)
        for position in (0, 2):
            cache.enter(position, 0)
            cache._keep("mlp", torch.tensor([3.0 * position + 1]))
        cache.enter(3, 0)
        assert (cache._forecast("mlp").item() == 10.0) is exact


@pytest.mark.parametrize("text", ["deepcache:0", "fora:-1", "taylorseer:0:1"])
def test_an_interval_below_one_is_refused(build, refusal, text: str) -> None:
    with refusal("interval", "whole number from 1"):
        apply_method(build(DiT), text)


def test_settings_that_do_not_fit_are_refused(build, refusal) -> None:
    with refusal("2 blocks at every step", "has 2", "0 to 1"):
        apply_method(build(DiT), "deepcache:2:2")
    with refusal("order -1"):
        apply_method(build(DiT), "taylorseer:2:-1")
