"""Factories of others: what fits the protocol, and one line for everything that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.models import SamplingModel, begin_run, candidate_of, load_candidate
from dydit import DiT, InputError, macs
from dydit.inference import Engine

SOURCE = """
import torch
from torch import nn

class Tiny(nn.Module):
    in_channels, input_size, num_classes = 3, 4, 5
    def forward(self, x, t, y):
        return {output}

def model():
    return Tiny()

def broken():
    raise ValueError("no weights")

def number():
    return 3

three = 3
"""


class Plain(nn.Module):
    in_channels, input_size, num_classes = 1, 4, 3

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        for name, value in changes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(name, output) -> a module of that name in the working directory, whose network returns `output`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, output: str = "x") -> str:
        (tmp_path / f"{name}.py").write_text(SOURCE.format(output=output))
        return name

    return write


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        load_candidate(text)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(("output", "sigma"), [("x", False), ("torch.cat([x, x], 1)", True)])
def test_a_network_is_taken_with_or_without_variances(written, output: str, sigma: bool) -> None:
    found = load_candidate(f"{written(f'mine_{sigma}', output)}:model")
    assert found.config.kwargs() == {"in_channels": 3, "input_size": 4, "num_classes": 5, "learn_sigma": sigma}
    assert found.claimed_macs() is None and found.rates() is None
    assert found.source_sha256() is not None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mine", ("package.module:factory",)),
        ("mine:", ("package.module:factory",)),
        ("nowhere.to_be:found", ("cannot import nowhere.to_be", "ModuleNotFoundError")),
        ("mine_bad:nothing", ("mine_bad has no function nothing",)),
        ("mine_bad:three", ("has no function three",)),
        ("mine_bad:broken", ("raised ValueError (no weights)",)),
        ("mine_bad:number", ("returned a int", "torch.nn.Module")),
    ],
)
def test_a_factory_that_gives_no_network_is_refused(written, text: str, parts: tuple[str, ...]) -> None:
    written("mine_bad")
    message = refused(text)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("number", "output", "parts"),
    [
        (0, "x[:1]", ("returned (1, 3, 4, 4)", "(2, 3, 4, 4) or (2, 6, 4, 4)")),
        (1, "x.mean()", ("returned ()",)),
        (2, "(x, x)", ("returned tuple",)),
        (3, "x / 0", ("NaN or infinity",)),
        (4, "x @ torch.zeros(5, 5)", ("raised RuntimeError", "null label")),
        (5, "x.mul_(2)", ("changed its input x",)),
        (6, "x + y.clamp_(max=4).view(-1, 1, 1, 1)", ("changed its input y",)),
    ],
)
def test_a_network_that_does_not_fit_the_protocol_is_refused(
    written, number: int, output: str, parts: tuple[str, ...]
) -> None:
    message = refused(f"{written(f'shape_{number}', output)}:model")
    assert all(part in message for part in parts), message


def test_code_that_exits_does_not_end_the_command(written, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "exits_when_called.py").write_text("import sys\ndef model(): sys.exit(0)\n")
    message = refused("exits_when_called:model")
    assert "the factory raised SystemExit (0) in exits_when_called.py, line 2" in message
    (tmp_path / "exits_at_once.py").write_text("import sys\nsys.exit()\n")
    assert "cannot import exits_at_once (SystemExit" in refused("exits_at_once:model")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (ValueError("odd\nnews"), r"Late: a call at timestep 7 raised ValueError \(odd\) in test_loading.py, line"),
        (SystemExit(0), r"Late: a call at timestep 7 raised SystemExit"),
        (torch.zeros(2, 3, 4), r"Late: a call on \(2, 3, 4, 4\) returned \(2, 3, 4\)"),
    ],
)
def test_a_network_that_fails_in_the_middle_of_a_run_is_told_in_one_line(fault: Any, told: str) -> None:
    class Late(Plain):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            if t[0] == 7 and isinstance(fault, BaseException):
                raise fault
            return fault if t[0] == 7 else x

    model, x, y = SamplingModel(Late()), torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)
    assert torch.equal(model(x, 8, y), x)
    with pytest.raises(InputError, match=told):
        model(x, 7, y)


def test_a_lack_of_memory_is_not_told_as_a_fault_of_the_network() -> None:
    class Large(Plain):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            raise MemoryError

    with pytest.raises(MemoryError):
        SamplingModel(Large())(torch.zeros(2, 3, 4, 4), 7, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("value", [None, 0, 2.0, True, "4"])
def test_an_attribute_that_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="attribute input_size"):
        candidate_of(Plain(input_size=value), "plain")


def test_a_network_of_this_project_needs_no_attributes() -> None:
    config = {"input_size": 8, "patch_size": 2, "in_channels": 1, "hidden_size": 48, "depth": 2, "num_heads": 4}
    model = DiT(**config)
    found = candidate_of(model, "static")
    assert found.config.learn_sigma and not model.training
    assert found.claimed_macs() == macs(model.config).total()


@pytest.mark.parametrize("claim", [-1.0, "many", lambda: 1 / 0])
def test_a_claim_that_is_no_number_is_refused(claim: Any) -> None:
    found = candidate_of(Plain(claimed_macs=claim if callable(claim) else lambda: claim), "plain")
    with pytest.raises(InputError, match=r"plain: claimed_macs\(\)"):
        found.claimed_macs()


def test_a_run_begins_for_those_that_want_to_know() -> None:
    heard: list[list[int]] = []
    begin_run(Plain(), [9, 0])
    candidate_of(Plain(begin_run=heard.append), "plain")
    SamplingModel(Plain(begin_run=heard.append)).begin_run((9, 0))
    assert heard == [[999], [9, 0]]


def test_a_network_of_anyone_is_given_a_timestep_for_each_image_and_an_engine_the_number() -> None:
    seen: list[Any] = []

    class Watching(Plain):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            seen.append(t)
            return x

    class WatchingEngine(Engine):
        def __call__(self, x: Tensor, t: Tensor | int, y: Tensor) -> Tensor:
            seen.append(t)
            return x

    x, y = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    small = DiT(input_size=4, patch_size=2, in_channels=1, hidden_size=16, depth=1, num_heads=2, num_classes=3)
    for model in (Watching(), WatchingEngine(small.eval())):
        SamplingModel(model)(x, 417, y)
    assert seen[0].tolist() == [417, 417] and seen[0].dtype == torch.int64
    assert seen[1] == 417


def test_a_network_computes_in_its_dtype_behind_float32() -> None:
    seen: list[torch.dtype] = []

    class Watching(Plain):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            seen.append(x.dtype)
            return x

    output = SamplingModel(Watching(), torch.bfloat16)(torch.zeros(1, 1, 4, 4), torch.zeros(1), torch.zeros(1))
    assert (seen, output.dtype) == ([torch.bfloat16], torch.float32)
