from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from dydit import MODEL_NAMES, DiTConfig, model_config
from dydit.config import PAPER_LAMBDAS, PIXEL_MODEL_NAMES, check_lambda
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.flops import MATMUL, macs

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
NAMES = [(f"{kind}-{size}/{p}", size, p) for kind in ("DiT", "DyDiT") for size in SIZES for p in (2, 4, 8)]
TINY = {"input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 48, "depth": 2, "num_heads": 4}


def test_the_registry_holds_every_published_size() -> None:
    assert sorted(MODEL_NAMES) == sorted(name for name, _, _ in NAMES)


@pytest.mark.parametrize(("name", "size", "patch"), NAMES)
def test_a_name_gives_the_published_shape(name: str, size: str, patch: int) -> None:
    config = model_config(name)
    assert (config.depth, config.hidden_size, config.num_heads) == SIZES[size]
    assert (config.input_size, config.patch_size, config.in_channels, config.out_channels) == (32, patch, 4, 8)
    assert (config.mlp_ratio, config.num_classes, config.class_dropout_prob) == (4.0, 1000, 0.1)
    assert config.tokens == (32 // patch) ** 2
    assert config.head_dim * config.num_heads == config.hidden_size
    assert config.mlp_hidden == 4 * config.hidden_size
    assert config.token_router_hidden == config.hidden_size // 16


def test_resolution_512_has_latents_of_64() -> None:
    assert model_config("DiT-XL/2", 512).tokens == 32**2


@pytest.mark.parametrize("name", PIXEL_MODEL_NAMES)
def test_a_pixel_model_sees_images_of_its_data_set(name: str) -> None:
    config = model_config(name)
    assert (config.input_size, config.in_channels, config.out_channels, config.num_classes) == (32, 3, 6, 10)
    assert (config.depth, config.hidden_size, config.num_heads) == SIZES["S"]
    assert config.tokens == model_config("DiT-S/2").tokens == 256
    assert model_config(name, 32) == config


def test_the_pixel_models_cost_what_size_s_costs() -> None:
    """The sizes in the registry's docstring: 32.5 M parameters and 6 GMACs."""
    for name in PIXEL_MODEL_NAMES:
        with torch.device("meta"):
            network = (DyDiT if name.startswith("DyDiT") else DiT)(**model_config(name).kwargs())
        assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(32.5e6, abs=0.2e6)
        assert macs(network.config).total(MATMUL) == pytest.approx(6e9, abs=0.1e9)


def test_a_config_is_rebuilt_from_its_keyword_arguments() -> None:
    config = model_config("DyDiT-B/4", 512)
    assert DiTConfig(**config.kwargs()) == config


def test_a_config_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        model_config("DiT-S/2").depth = 3


def test_without_learned_variance_there_is_one_output_channel_per_input_channel() -> None:
    assert DiTConfig(**TINY, learn_sigma=False).out_channels == 4


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("DiT-XL/3", "DiT-XL/2"),
        ("DyDiT-S2", "DyDiT-S/2"),
        ("DyDit-B/8", "DyDiT-B/8"),
        ("DyDiT-S/2-cifar", "DyDiT-S/2-cifar10"),
        ("DiT-S/4-cifar10", "DiT-S/2-cifar10"),
        ("", "DiT-S/2"),
        ("#", "DiT"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_names(refusal, name: str, offer: str) -> None:
    with refusal(repr(name), offer):
        model_config(name)


@pytest.mark.parametrize(
    ("name", "resolution", "step"),
    [("DiT-S/2", 250, 16), ("DiT-S/2", 8, 16), ("DiT-S/2", 0, 16), ("DiT-S/2", -256, 16), ("DyDiT-XL/8", 96, 64)],
)
def test_a_resolution_the_patches_do_not_divide_is_refused(refusal, name: str, resolution: int, step: int) -> None:
    with refusal(str(resolution), name, f"multiple of {step}"):
        model_config(name, resolution)


@pytest.mark.parametrize("resolution", [256, 16, 0, -32])
def test_a_pixel_model_has_one_resolution(refusal, resolution: int) -> None:
    with refusal(f"resolution {resolution}", "DiT-S/2-cifar10", "32 pixels"):
        model_config("DiT-S/2-cifar10", resolution)


@pytest.mark.parametrize("field", [*TINY, "num_classes"])
@pytest.mark.parametrize("value", [0, -4])
def test_a_size_below_one_is_refused(refusal, field: str, value: int) -> None:
    with refusal(f"{field} = {value}"):
        DiTConfig(**{**TINY, field: value})


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"input_size": 9}, ("input_size = 9", "patch_size = 2")),
        ({"hidden_size": 50}, ("hidden_size = 50", "num_heads = 4")),
        ({"mlp_ratio": 3.98}, ("mlp_hidden = 191", "num_heads = 4")),
        ({"hidden_size": 42, "num_heads": 3, "mlp_ratio": 2.0}, ("hidden_size = 42", "multiple of 4")),
        ({"class_dropout_prob": 1.1}, ("class_dropout_prob = 1.1",)),
        ({"class_dropout_prob": -0.1}, ("class_dropout_prob = -0.1",)),
        ({"class_dropout_prob": math.nan}, ("class_dropout_prob = nan",)),
        ({"mlp_ratio": 0.0}, ("mlp_hidden = 0",)),
        ({"mlp_ratio": -4.0}, ("mlp_hidden = -192",)),
    ],
)
def test_a_shape_no_network_has_is_refused(refusal, change: dict[str, float], parts: tuple[str, ...]) -> None:
    with refusal(*parts):
        DiTConfig(**{**TINY, **change})


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, math.nan, math.inf, -math.inf])
def test_a_lambda_outside_its_range_is_refused(refusal, value: float) -> None:
    with refusal(f"lambda = {value}"):
        check_lambda(value)


@pytest.mark.parametrize("value", [1e-6, 1.0, *sorted(set().union(*PAPER_LAMBDAS.values()))])
def test_a_lambda_in_its_range_comes_back_unchanged(value: float) -> None:
    assert check_lambda(value) == value
