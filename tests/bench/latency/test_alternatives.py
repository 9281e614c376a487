"""The static model by other libraries: each computes the same, or stands there as not run, with the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.latency import alternatives
from bench.latency.alternatives import ALTERNATIVES, Inputs, build_alternatives, check_names
from dydit import DiT
from dydit.inference import Engine

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def static() -> DiT:
    torch.manual_seed(0)
    model = DiT(input_size=8, patch_size=2, in_channels=4, hidden_size=32, depth=2, num_heads=2, num_classes=10)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return (
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
        torch.full((2,), 500),
        torch.tensor([1, 10]),
    )


def test_what_can_be_built_computes_the_same_network(
    static: DiT, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile with the backend that compiles nothing: only what it is asked for is looked at."""
    asked: list[dict[str, Any]] = []
    compiled = torch.compile

    def compile_(call: Any, **settings: Any) -> Any:
        asked.append(settings)
        return compiled(call, dynamic=settings["dynamic"], backend="eager")

    monkeypatch.setattr(torch, "compile", compile_)
    names = [name for name in ALTERNATIVES if name.startswith(("diffusers", "torch.compile"))]
    built, refused = build_alternatives(names, static, inputs, Engine(static)(*inputs))
    assert list(built) == names and refused == {}
    assert [settings["options"]["freezing"] for settings in asked] == [False, True, False, True]
    with torch.no_grad():
        expected = static(*inputs)
    x, _, y = inputs
    for model in built.values():  # a sampler gives the timestep as a number
        torch.testing.assert_close(model(x, 500, y), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_a_library_that_is_absent_is_not_run_and_the_remedy_is_named(
    static: DiT, inputs: Inputs, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    built, refused = build_alternatives([library], static, inputs, Engine(static)(*inputs))
    assert built == {}
    assert refused[library].startswith(f"not run: {library} cannot be imported")
    assert "dydit-bench[alternatives]" in refused[library]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x, t, y: torch.zeros(2, 8, 8, 8), "its output differs from that of the static engine by"),
        (
            lambda x, t, y: torch.full((2, 8, 8, 8), torch.nan),
            "its output differs from that of the static engine by nan",
        ),
        (lambda x, t, y: 1 / 0, "division by zero"),
    ],
)
def test_what_computes_something_else_or_fails_is_not_timed(
    static: DiT, inputs: Inputs, call: Callable[..., Tensor], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alternatives, "ALTERNATIVES", {"other": lambda *_: call})
    built, refused = build_alternatives(["other"], static, inputs, Engine(static)(*inputs))
    assert built == {} and refused["other"].startswith(f"not run: {reason}")


def test_all_stands_for_every_name() -> None:
    assert check_names(["all"]) == tuple(ALTERNATIVES)
    assert check_names(["openvino", "diffusers", "openvino"]) == ("openvino", "diffusers")


def test_the_static_engine_is_compiled_once(static: DiT, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that changed with every forward would make torch.compile begin again at each."""
    graphs: list[Any] = []
    compiled = torch.compile

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled(call, backend=backend))
    run = ALTERNATIVES["torch.compile-static"](static, inputs)
    outputs = [run(*inputs) for _ in range(3)]
    assert len(graphs) == 1 and all(torch.equal(outputs[0], output) for output in outputs)
