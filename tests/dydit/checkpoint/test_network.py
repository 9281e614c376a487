"""Checkpoints as users have them: wrapped, in parts, of other classes, sizes and layouts; or refused in one line."""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dydit import DiT, DyDiT, InputError, checkpoint

State = dict[str, Tensor]
PUBLISHED_WIDTH = {"hidden_size": 384, "num_heads": 6}
"""A static network tells its number of heads by a published width alone."""
Refusal = Callable[..., Any]


def weights(model: DiT) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def check_same(path: Path, model: DiT, **options: Any) -> checkpoint.Checkpoint:
    """The file is read as a network of the same class and weights; returns what was read."""
    again, found = checkpoint.load_model(path, **options)
    assert type(again) is type(model) and not again.training
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    return found


# Wrappers, sets and parts


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.inner.model.", "diffusion_model.module."],
)
@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_a_prefix_that_all_keys_share_is_taken_off_and_said(
    build: Callable[..., DiT], tmp_path: Path, kind: type[DiT], prefix: str
) -> None:
    model, path = build(kind, **PUBLISHED_WIDTH), tmp_path / "model.pt"
    torch.save({prefix + key: value for key, value in weights(model).items()}, path)
    notes = " ".join(check_same(path, model).notes)
    taken = prefix.replace("_orig_mod.", "")
    assert (f"prefix {taken!r}" in notes) == bool(taken) and ("wrappers" in notes) == ("_orig_mod" in prefix)


def test_wrappers_inside_the_keys_are_taken_out(build: Callable[..., DiT], tmp_path: Path) -> None:
    model, path = build(DyDiT), tmp_path / "model.pt"
    inner = {
        key.replace("blocks.1.", "blocks.1._fsdp_wrapped_module._orig_mod."): v for key, v in weights(model).items()
    }
    torch.save(inner, path)
    check_same(path, model)


@pytest.mark.parametrize("name", ["ema", "model", "state_dict", "model_state_dict", "ema_state_dict", "module"])
def test_a_set_of_weights_is_found_by_its_name(build: Callable[..., DiT], tmp_path: Path, name: str) -> None:
    model, path = build(DyDiT), tmp_path / "model.ckpt"
    torch.save({name: weights(model), "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, path)
    notes = " ".join(check_same(path, model).notes)
    assert repr(name) in notes and "left epoch, optimizer" in notes


def test_the_average_or_the_last_weights_are_taken_as_asked(build: Callable[..., DiT], tmp_path: Path) -> None:
    one, other = (build(DiT, seed=seed, **PUBLISHED_WIDTH) for seed in (1, 2))
    path = tmp_path / "0050000.pt"
    torch.save({"ema": weights(one), "model": {f"module.{k}": v for k, v in weights(other).items()}, "opt": {}}, path)
    check_same(path, one)
    check_same(path, other, weights="model")


def test_two_networks_in_one_file_are_not_mixed(build: Callable[..., DiT], tmp_path: Path, refusal: Refusal) -> None:
    state = weights(build(DiT))
    torch.save(
        {f"{part}.{key}": value for key, value in state.items() for part in ("teacher", "student")}, tmp_path / "x.pt"
    )
    with refusal("x.pt", "several networks", "student.", "teacher."):
        checkpoint.load_model(tmp_path / "x.pt")


def in_parts(directory: Path, state: State) -> Path:
    directory.mkdir()
    names = list(state)
    weight_map = {name: f"model-0000{1 + (index % 2)}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: state[name].contiguous() for name in names if weight_map[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def test_weights_in_parts_are_read_from_the_folder_or_the_index(build: Callable[..., DiT], tmp_path: Path) -> None:
    model = build(DyDiT)
    folder = in_parts(tmp_path / "parts", weights(model))
    check_same(folder, model)
    check_same(folder / "model.safetensors.index.json", model)


def test_one_part_alone_or_a_missing_one_is_told(build: Callable[..., DiT], tmp_path: Path, refusal: Refusal) -> None:
    folder = in_parts(tmp_path / "parts", weights(build(DiT)))
    part = folder / "model-00002-of-00002.safetensors"
    with refusal("part 2 of 2 alone", "model.safetensors.index.json"):
        checkpoint.read(part)
    part.unlink()
    with refusal("model-00002-of-00002.safetensors", "fetch every part"):
        checkpoint.read(folder)


def test_an_index_cannot_name_a_file_elsewhere(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with refusal("../secret.safetensors"):
        checkpoint.read(tmp_path)


def test_a_folder_without_weights_names_what_it_would_hold(tmp_path: Path, refusal: Refusal) -> None:
    with refusal(str(tmp_path), "model.safetensors"):
        checkpoint.read(tmp_path)


# diffusers


@pytest.fixture(scope="module")
def diffusers_folder(build: Callable[..., DiT], tmp_path_factory: pytest.TempPathFactory) -> tuple[DiT, Path]:
    model, folder = build(DiT), tmp_path_factory.mktemp("pipeline")
    checkpoint.write_diffusers(folder / "transformer", model)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}))
    return model, folder


@pytest.mark.parametrize("part", ["", "transformer", "transformer/diffusion_pytorch_model.safetensors"])
def test_the_layout_of_diffusers_is_read(diffusers_folder: tuple[DiT, Path], part: str) -> None:
    model, folder = diffusers_folder
    assert "keys renamed from diffusers' layout" in check_same(folder / part, model).notes


def test_what_is_written_for_diffusers_is_what_diffusers_computes(
    diffusers_folder: tuple[DiT, Path], draw: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> None:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    model, folder = diffusers_folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = DiTTransformer2DModel.from_pretrained(folder / "transformer").eval()
    for block in twin.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # the published code's
    x, t, y = draw(model)
    with torch.no_grad():
        torch.testing.assert_close(twin(x, timestep=t, class_labels=y).sample, model(x, t, y), rtol=1e-4, atol=1e-4)


def test_a_network_with_routers_is_not_written_for_diffusers(
    build: Callable[..., DiT], tmp_path: Path, refusal: Refusal
) -> None:
    with refusal("DyDiT has routers"):
        checkpoint.write_diffusers(tmp_path, build(DyDiT))


def test_a_prediction_of_velocity_is_refused_by_name(
    diffusers_folder: tuple[DiT, Path], build: Callable[..., DiT], tmp_path: Path, refusal: Refusal
) -> None:
    for said in (
        {"prediction": "velocity", "path_type": "Linear"},
        {"model": "SiT-XL/2"},
        {"prediction_type": "sample"},
    ):
        torch.save({"ema": weights(build(DiT)), "args": argparse.Namespace(**said)}, tmp_path / "other.pt")
        with refusal("other.pt", "another parametrisation", str(next(iter(said.values())))):
            checkpoint.load_model(tmp_path / "other.pt")


# Which network it is


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_the_network_follows_from_the_shapes(
    build: Callable[..., DiT], tmp_path: Path, classes: int, learn_sigma: bool
) -> None:
    model = build(DyDiT, num_classes=classes, learn_sigma=learn_sigma, patch_size=4, depth=3)
    torch.save(weights(model), tmp_path / "bare.pt")
    found = checkpoint.load_model(tmp_path / "bare.pt")[0].config
    assert found == model.config


def test_the_arguments_of_a_training_tell_classes_and_heads(build: Callable[..., DiT], tmp_path: Path) -> None:
    model = build(DiT, hidden_size=384, num_heads=6, depth=2)
    arguments = argparse.Namespace(model="DiT-S/2", num_classes=10, image_size=256, results_dir=pathlib.Path("r"))
    torch.save({"ema": weights(model), "args": arguments}, tmp_path / "0050000.pt")
    found = checkpoint.load_model(tmp_path / "0050000.pt")[0].config
    assert (found.num_classes, found.num_heads) == (10, 6)


def test_without_heads_the_name_of_the_model_is_asked_for(
    build: Callable[..., DiT], tmp_path: Path, refusal: Refusal
) -> None:
    torch.save(weights(build(DiT)), tmp_path / "bare.pt")
    with refusal("bare.pt", "number of heads", "--model"):
        checkpoint.load_model(tmp_path / "bare.pt")


def test_a_table_without_null_row_gives_a_network_without_guidance(build: Callable[..., DiT], tmp_path: Path) -> None:
    model = build(DyDiT, num_classes=10, class_dropout_prob=0.0)
    assert model.state_dict()["y_embedder.embedding_table.weight"].shape[0] == 10
    torch.save({"ema": weights(model), "args": argparse.Namespace(num_classes=10)}, tmp_path / "x.pt")
    found, read = checkpoint.load_model(tmp_path / "x.pt")
    assert found.config.class_dropout_prob == 0.0 and "no null label" in " ".join(read.notes)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"model": "DyDiT-S/2"}, ("depth = 2", "has 12")),
        ({"resolution": 512}, ("64 pixels", "--resolution says 512")),
        ({"model": "DiT-S/2"}, ("holds routers", "--model DyDiT-S/2")),
    ],
)
def test_contradictions_are_told_with_both_values(
    build: Callable[..., DiT], tmp_path: Path, refusal: Refusal, options: dict[str, Any], parts: tuple[str, ...]
) -> None:
    torch.save(weights(build(DyDiT)), tmp_path / "x.pt")
    with refusal("x.pt", *parts):
        checkpoint.load_model(tmp_path / "x.pt", **options)


def test_a_position_table_of_another_resolution_names_the_option(
    build: Callable[..., DiT], tmp_path: Path, refusal: Refusal
) -> None:
    model = build(DyDiT, hidden_size=384, num_heads=6, depth=12, input_size=64, patch_size=8, num_classes=1000)
    torch.save(weights(model), tmp_path / "512.pt")
    with refusal("512.pt", "--resolution 512"):
        checkpoint.load_model(tmp_path / "512.pt", model="DyDiT-S/8")
    assert checkpoint.load_model(tmp_path / "512.pt", model="DyDiT-S/8", resolution=512)[0].config == model.config


# Weights that cannot be right


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.tensor(float("nan")), "NaN or infinity"),
        (torch.tensor(float("inf")), "NaN or infinity"),
        (torch.tensor(float("-inf"), dtype=torch.bfloat16), "NaN or infinity"),
        (torch.tensor(3), "torch.int64"),
        (torch.tensor(1 + 1j), "torch.complex64"),
        (torch.tensor(True), "torch.bool"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_values_that_no_training_gives_are_refused_with_the_first_key(
    build: Callable[..., DiT], tmp_path: Path, refusal: Refusal, value: Tensor, named: str, suffix: str
) -> None:
    state = weights(build(DyDiT))
    key = "blocks.1.mlp.fc1.weight"
    broken = state[key].to(value.dtype)
    broken[3, 5] = value
    state[key], path = broken, tmp_path / f"x.{suffix}"
    (torch.save if suffix == "pt" else save_file)(state, path)
    with refusal(str(path), key, named):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"depth": 2.5}, "depth = 2.5"),
        ({"depth": 10**9}, "depth = 1000000000"),
        ({"mlp_ratio": float("nan")}, "the number NaN"),
        ({"mlp_ratio": "4"}, "mlp_ratio = '4'"),
        ({"hidden_size": 10**9}, "hidden_size = 1000000000"),
        ({"num_heads": True}, "num_heads = True"),
        ({"learn_sigma": 1}, "learn_sigma = 1"),
        ({"surprise": 1}, "is not one of a DiT"),
    ],
)
def test_a_recorded_configuration_that_cannot_be_is_refused(
    build: Callable[..., DiT], tmp_path: Path, refusal: Refusal, change: dict[str, Any], part: str
) -> None:
    model, path = build(DyDiT), tmp_path / "x.safetensors"
    record = {"kind": "DyDiT", "config": json.dumps({**model.config.kwargs(), **change})}
    checkpoint.write_tensors(path, model.state_dict(), record)
    with refusal(part):
        checkpoint.load_model(path)


# Other classes in the file


def test_numpy_numbers_paths_and_arguments_are_harmless(build: Callable[..., DiT], tmp_path: Path) -> None:
    model, path = build(DyDiT), tmp_path / "x.pt"
    numbers = [kind(1) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_, np.uint8)]
    arguments = argparse.Namespace(out=pathlib.Path("results") / "a", loss=np.float64(0.5))
    torch.save({"ema": weights(model), "numbers": numbers, "args": arguments}, path)
    check_same(path, model)


class Configuration:
    """A class of the user's own."""


def test_a_class_of_somebody_elses_is_named(build: Callable[..., DiT], tmp_path: Path, refusal: Refusal) -> None:
    torch.save({"ema": weights(build(DiT)), "args": Configuration()}, tmp_path / "x.pt")
    with refusal("x.pt", "Configuration", "nothing of it was run", "torch.save(checkpoint['ema'], FILE)"):
        checkpoint.read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "NumPy array"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG picture"),
        (b'{"weight_map": {}}', "JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
    ],
)
def test_another_kind_of_file_is_called_what_it_is(tmp_path: Path, refusal: Refusal, content: bytes, kind: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with refusal("x.pt", kind, "not a checkpoint"):
        checkpoint.read(tmp_path / "x.pt")


# What is written


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: nn.DataParallel(torch.compile(model))])
def test_a_wrapped_model_is_written_as_the_network_inside(
    build: Callable[..., DiT], tmp_path: Path, wrap: Callable[[DiT], nn.Module]
) -> None:
    model = build(DyDiT)
    checkpoint.write(tmp_path / "x.safetensors", wrap(model))
    check_same(tmp_path / "x.safetensors", model)


def test_what_is_no_network_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Linear is no network of this project"):
        checkpoint.write(tmp_path / "x.safetensors", nn.Linear(2, 2))
    assert not (tmp_path / "x.safetensors").exists()


def test_reading_takes_the_memory_of_the_weights_asked_for(tmp_path: Path) -> None:
    """The average out of a training checkpoint, in a process of its own: no more memory than 1.3 times the average."""
    path, megabytes = tmp_path / "x.pt", 64
    average = {"x_embedder.proj.weight": torch.zeros(megabytes * 2**18)}
    moments = {index: {"exp_avg": torch.zeros(megabytes * 2**18)} for index in range(3)}
    torch.save({"model": {"x_embedder.proj.weight": torch.zeros(8)}, "ema": average, "opt": {"state": moments}}, path)
    program = """
import sys
from dydit import checkpoint

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024

before = resident()
found = checkpoint.read(sys.argv[1])
total = sum(float(value.sum()) for value in found.state.values())
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.3 * megabytes
