"""What is written can be read back, whatever stands around the network; what could not be is not written."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from dydit import DiT, DyDiT, checkpoint
from dydit.checkpoint.hub import Pretrained
from dydit.checkpoint.network import KINDS, plain_state, unwrapped

TINY = {"input_size": 4, "patch_size": 2, "hidden_size": 16, "num_heads": 2}
compiled: Any = functools.partial(torch.compile, backend="eager")
AROUND: dict[str, Callable[[Any], nn.Module]] = {
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "average": AveragedModel,
    "recomputed": checkpoint_wrapper,
}


def network(kind: type[DiT] = DyDiT, **config: Any) -> DiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(**{**TINY, "in_channels": 3, "depth": 2, "num_classes": 3, **config})
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model


@given(
    kind=st.sampled_from(sorted(KINDS)),
    config=st.fixed_dictionaries(
        {
            "in_channels": st.integers(1, 4),
            "depth": st.integers(1, 2),
            "num_classes": st.integers(1, 4),
            "mlp_ratio": st.sampled_from([1.0, 1.5, 4.0]),
            "class_dropout_prob": st.sampled_from([0.0, 0.1, 1.0]),
            "learn_sigma": st.booleans(),
        }
    ),
    inside=st.lists(st.sampled_from(["compiled", "recomputed", "parallel"]), max_size=2, unique=True),
    outside=st.lists(st.sampled_from(["compiled", "average", "parallel"]), max_size=3, unique=True),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    record=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_back(
    kind: str,
    config: dict[str, Any],
    inside: list[str],
    outside: list[str],
    dtype: torch.dtype,
    record: dict[str, str],
) -> None:
    model = network(KINDS[kind], **config)
    expected = {key: value.to(dtype).float() for key, value in model.state_dict().items()}
    for name in inside:
        for index, block in enumerate(model.blocks):
            model.blocks[index] = AROUND[name](block)
    wrapped: nn.Module = model
    for name in outside:
        wrapped = AROUND[name](wrapped)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        checkpoint.write(path, wrapped, record, dtype)
        again, found = checkpoint.load_model(path)
        assert type(again).__name__ == kind and again.config == model.config
        assert found.record.items() >= {k: v for k, v in record.items() if k not in ("kind", "config")}.items()
        assert again.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())


def test_weights_that_blocks_share_are_written_once_for_each() -> None:
    model = network()
    model.blocks[1] = model.blocks[0]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.write(Path(folder) / "x.safetensors", model)
        again, _ = checkpoint.load_model(Path(folder) / "x.safetensors")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


class Mine(DiT):
    """A network that only its owner knows."""


def changed(part: str, value: Any) -> Callable[[], DiT]:
    def make() -> DiT:
        model = network()
        owner, _, name = part.rpartition(".")
        setattr(model.get_submodule(owner), name, value)
        return model

    return make


def not_finite(value: float) -> DiT:
    model = network()
    with torch.no_grad():
        model.final_layer.linear.weight[0, 0] = value
    return model


def without_values() -> DiT:
    with torch.device("meta"):
        return DyDiT(**TINY, in_channels=3, depth=2, num_classes=3)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: network(Mine), {}, "a Mine could not be read back"),
        (lambda: not_finite(float("nan")), {}, "final_layer.linear.weight holds NaN or infinity"),
        (lambda: not_finite(1e6), {"dtype": torch.float16}, "final_layer.linear.weight holds NaN or infinity"),
        (without_values, {}, "shapes and no values"),
        (changed("final_layer.linear", nn.Linear(16, 12)), {}, "final_layer.linear.weight has shape (12, 16)"),
        (changed("extra", nn.Linear(1, 1)), {}, "unexpected key extra.weight"),
        (network, {"dtype": torch.int8}, "weights in torch.int8"),
        (network, {"dtype": torch.float64}, "weights in torch.float64"),
        (network, {"record": {"steps": 5}}, "'steps': 5"),
        (network, {"record": {5: "steps"}}, "5: 'steps'"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, refusal, make: Callable[[], DiT], options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.write(path, network())
    before = path.read_bytes()
    with refusal("x.safetensors", message):
        checkpoint.write(path, make(), **options)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_dropout_prob": 0.0}, "null_label = None, diffusers' DiT has 3"),
        ({"mlp_ratio": 2.0}, "mlp_hidden = 32, diffusers' DiT has 64"),
    ],
)
def test_what_diffusers_could_not_read_is_not_written_for_it(
    tmp_path: Path, refusal, changes: dict[str, Any], message: str
) -> None:
    with refusal(message):
        checkpoint.write_diffusers(tmp_path / "x", network(DiT, **changes))
    assert not (tmp_path / "x").exists()


def test_diffusers_folders_and_hub_folders_are_those_of_the_network_inside(tmp_path: Path) -> None:
    model = network(DiT)
    expected = model.state_dict()
    model.blocks[0] = compiled(model.blocks[0])
    checkpoint.write_diffusers(tmp_path / "diffusers", nn.DataParallel(model))
    Pretrained(compiled(model)).save_pretrained(tmp_path / "hub")
    for again in (checkpoint.load_model(tmp_path / "diffusers")[0], Pretrained.from_pretrained(tmp_path / "hub").model):
        assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
    assert "OptimizedModule" not in (tmp_path / "hub" / "README.md").read_text()


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, lambda model: compiled(nn.DataParallel(model))])
def test_weights_are_loaded_into_the_network_inside(tmp_path: Path, wrap: Callable[[Any], nn.Module]) -> None:
    checkpoint.write(tmp_path / "x.safetensors", network())
    target = wrap(DyDiT(**TINY, in_channels=3, depth=2, num_classes=3))
    assert checkpoint.load_into(target, checkpoint.read(tmp_path / "x.safetensors")) == []
    assert all(torch.equal(value, network().state_dict()[key]) for key, value in plain_state(unwrapped(target)).items())
