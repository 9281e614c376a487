"""Timed: forwards of the three engines, a router pass, a guided sampling step. Groups read as comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.latency.cases import STEPS, Case, LatencyOptions, build_pair, random_inputs, timed_cases
from bench.latency.synthetic_routing import draw_routing
from bench.machine import Budget, in_turns, speedup
from dydit import Diffusion
from dydit.dydit import DyDiTBlock
from dydit.inference import Engine, WidthPlan
from dydit.sampling import denoise

SIZES = [("DiT-S/2", 1), ("DiT-S/2", 4), ("DiT-B/2", 1)]
CASES = ("static", "masked 0.5", "realised 0.5 even")


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size[0]}-batch{size[1]}")
def timed(request: pytest.FixtureRequest) -> Iterator[tuple[str, int, dict[str, Case], tuple[torch.Tensor, ...]]]:
    """Model name, batch, cases by name, and a guided batch of inputs (2 x batch rows)."""
    name, batch = request.param
    options = LatencyOptions(models=[name], lambdas=[0.5], batch=[batch], profiles=["even"])
    static, dynamic = build_pair(name, options)
    yield (
        name,
        batch,
        timed_cases(name, static, dynamic, 2 * batch, options),
        random_inputs(static, batch, options),
    )


@pytest.mark.parametrize("case", CASES)
def test_forward(benchmark: Any, timed: Any, case: str) -> None:
    name, batch, cases, inputs = timed
    chosen = cases[case]
    benchmark.group = f"{name}, batch {batch}, guided forward"
    benchmark.extra_info.update(engine=chosen.engine, flops_ratio=chosen.executed_ratio, device="cpu", dtype="fp32")
    output = benchmark.pedantic(chosen.model, inputs, rounds=5, warmup_rounds=1)
    assert output.isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_sampling_step(benchmark: Any, timed: Any, case: str) -> None:
    name, batch, cases, (x, _, y) = timed
    benchmark.group = f"{name}, batch {batch}, guided DDPM step"
    whole = Diffusion.linear().respaced(STEPS)
    one = Diffusion(whole.betas[:1], whole.timestep_map[:1])

    def step() -> torch.Tensor:
        with torch.inference_mode():
            half = x[:batch]
            noise = torch.zeros_like(half)
            return denoise(
                cases[case].model, one, half, y[:batch], noise=lambda _: noise, scale=1.5, null_label=int(y[-1])
            )

    assert benchmark.pedantic(step, rounds=5, warmup_rounds=1).shape == x[:batch].shape


@pytest.mark.parametrize("counts", ["met before", "new"])
def test_numbers_of_tokens(benchmark: Any, counts: str) -> None:
    """DyDiT-S/2 at batch 2 with as many selected tokens as in an earlier forward, and with numbers that are new.

    The tables of `bench latency` repeat the same masks. In a run the numbers change, and oneDNN makes a kernel for
    each one that it has not met: the first steps of a process take longer.
    """
    benchmark.group = "DyDiT-S/2, batch 2, numbers of selected tokens"
    options = LatencyOptions(models=["DiT-S/2"], lambdas=[0.5], batch=[2], profiles=["even"])
    _, dynamic = build_pair("DiT-S/2", options)
    drawn = draw_routing(dynamic.config, 0.5, "even", 4)
    engine = Engine(dynamic, WidthPlan.constant(drawn, range(1000)), drawn.tokens.bool())
    share = float(drawn.tokens.float().mean())
    generator = torch.Generator().manual_seed(0)

    def draw() -> None:
        if counts == "new":
            engine.tokens = torch.rand(drawn.tokens.shape, generator=generator) < share

    inputs = random_inputs(dynamic, 2, options)
    engine(*inputs)
    output = benchmark.pedantic(engine, inputs, setup=draw, rounds=10)
    assert output.isfinite().all()


def test_router_pass(benchmark: Any) -> None:
    """Both width routers and the token router of one block of DyDiT-S/2 on two images."""
    benchmark.group = "routers of one block, DyDiT-S/2"
    _, dynamic = build_pair("DiT-S/2", LatencyOptions(models=["DiT-S/2"]))
    block = dynamic.blocks[0]
    assert isinstance(block, DyDiTBlock)
    t_emb, tokens = torch.randn(2, 384), torch.randn(2, 256, 384)

    def routers() -> list[torch.Tensor]:
        with torch.inference_mode():
            return [block.attn_rate(t_emb), block.mlp_rate(t_emb), block.token_selection(tokens)]

    assert [mask.shape[1] for mask in benchmark(routers)] == [6, 6, 256]


def test_baseline_beside_diffusers(benchmark: Any) -> None:
    """DiT-S/2 by diffusers with the weights of ours; `extra_info` holds the paired ratio and its interval."""
    from bench.latency.alternatives import to_diffusers

    options = LatencyOptions(models=["DiT-S/2"], lambdas=[0.5], profiles=["even"])
    static, dynamic = build_pair("DiT-S/2", options)
    ours = timed_cases("DiT-S/2", static, dynamic, 4, options)["static"].model
    theirs = to_diffusers(static)
    x, t, y = random_inputs(static, 2, options)

    def other() -> torch.Tensor:
        with torch.inference_mode():
            result: torch.Tensor = theirs(x, timestep=t, class_labels=y).sample
            return result

    torch.testing.assert_close(ours(x, t, y), other(), rtol=1e-4, atol=1e-4)
    if not benchmark.disabled:
        calls = {"ours": lambda: ours(x, t, y), "diffusers": other}
        times = in_turns(calls, Budget(seconds=10, least=10), torch.device("cpu"), "diffusers")
        benchmark.extra_info["ours_over_diffusers"] = speedup(times["diffusers"], times["ours"])
    benchmark.group = "DiT-S/2, batch 2, guided forward by diffusers"
    benchmark.pedantic(other, rounds=5, warmup_rounds=1)
