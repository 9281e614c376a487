from __future__ import annotations

import pytest
import torch

from bench.flops.counts import executed_macs, meta_inputs
from dydit import DiT
from dydit.baselines import METHODS, apply_method, change_network, is_change
from dydit.baselines.registry import changed_config


@pytest.mark.parametrize("text", ["none", "tome:0.2", "tome:0.5", "skip:/0", "skip:1", "deepcache:2", "deepcache:3:0"])
@pytest.mark.parametrize("config", [{}, {"depth": 3, "input_size": 6, "hidden_size": 96}])
def test_what_a_stateless_formula_claims_is_executed(build, timesteps, config, text: str) -> None:
    _claimed_is_executed(build(DiT, **config), timesteps, text)


@pytest.mark.parametrize("text", ["fora:2", "fora:3", "taylorseer:2:1", "taylorseer:4:2"])
def test_what_a_cache_claims_is_executed(build, timesteps, text: str) -> None:
    _claimed_is_executed(build(DiT), timesteps, text)


@pytest.mark.parametrize("text", ["prune:magnitude:0.25", "prune:random:0.5", "remove:0"])
def test_what_a_smaller_network_claims_is_executed(build, timesteps, text: str) -> None:
    changed = change_network(build(DiT), text)
    assert changed.config == changed_config(build(DiT).config, text)
    _claimed_is_executed(changed, timesteps, "none")


def _claimed_is_executed(model: DiT, timesteps: tuple[int, ...], text: str) -> None:
    method = apply_method(model, text)
    x, _, y = (torch.zeros_like(tensor, device="cpu") for tensor in meta_inputs(model.config))
    method.begin_run(timesteps)
    ran = [executed_macs(method, (x + step / 1000, torch.tensor([step]), y)) for step in timesteps]
    assert sum(ran) / len(ran) == pytest.approx(method.claimed_macs(), rel=1e-9)


def test_every_method_says_how_it_is_written(build, refusal) -> None:
    for name, kind in METHODS.items():
        with refusal(kind.usage):
            (change_network if kind.changes else apply_method)(build(DiT), f"{name}:1:2:3:4")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("tomee:0.5", ("'tomee:0.5'", "tome")),
        ("tome", ("tome:RATIO",)),
        ("tome:half", ("'half' is no number",)),
        ("fora:1.5", ("'1.5' is no whole number",)),
        ("prune:magnitude:0.5", ("another network",)),
    ],
)
def test_a_method_that_is_none_is_refused(build, refusal, text: str, parts: tuple[str, ...]) -> None:
    with refusal(*parts):
        apply_method(build(DiT), text)


def test_only_some_methods_change_the_network(build, refusal) -> None:
    assert is_change("prune:taylor:0.5") and is_change("remove:1") and not is_change("fora:2")
    with refusal("leaves the network as it is"):
        change_network(build(DiT), "fora:2")
