"""Which network a checkpoint's weights belong to: from their shapes, the file's own words and the name asked for.

Shapes tell width, depth, patch size, channels, tokens, classes and whether a variance is predicted; they do not tell
the number of heads of a static DiT, nor whether one of the label table's rows is the null label. These come from what
the file says, from the name of a model, or from the published sizes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dydit.ablations import ABLATIONS
from dydit.checkpoint.layouts import WRAPPERS, Checkpoint, read
from dydit.config import VAE_DOWNSAMPLING, DiTConfig, model_config, published_heads
from dydit.dit import DiT, sincos_table
from dydit.dydit import DyDiT, is_router_key
from dydit.errors import InputError

_NETWORKS: list[type[DiT]] = [DiT, *(ablation.kind for ablation in ABLATIONS.values())]
KINDS = {network.__name__: network for network in _NETWORKS}
"""Classes of networks by the name that files record."""
_WIDTH_ROUTER = "blocks.0.attn_rate.router.weight"
_OTHER = "a network of another parametrisation, which this project does not sample"


@dataclass(frozen=True)
class Network:
    """The class of a network and its configuration, with sentences on what was concluded from where."""

    kind: type[DiT]
    config: DiTConfig
    notes: tuple[str, ...] = ()


def network_of(
    checkpoint: Checkpoint, where: str | Path, *, model: str | None = None, resolution: int | None = None
) -> Network:
    """Tell which network a checkpoint holds.

    Args:
        checkpoint: what `read` gave.
        where: the file, for messages.
        model: name of the network, such as `DyDiT-XL/2`, for files that do not tell it; what the file tells must agree.
        resolution: side of the images in pixels, likewise.

    Raises:
        InputError: no network of this family, one of another parametrisation, contradictions (both values are shown),
            or nothing that tells the number of heads.
    """
    _check_parametrisation(checkpoint, where, model)
    named = _recorded(checkpoint, where)
    notes: list[str] = []
    if named is None:
        named = _from_shapes(checkpoint, where, model, notes)
    kind = _kind(checkpoint, where, model)
    _check_names(named, kind, where, model, resolution)
    return Network(kind, named, tuple(notes))


def load_model(
    source: str | Path, *, model: str | None = None, resolution: int | None = None, weights: str = "ema"
) -> tuple[DiT, Checkpoint]:
    """The network of a checkpoint with its weights, in evaluation mode on the CPU, in float32.

    Weights that are float32 in the file stay mapped from it, so that memory is taken once.

    Args:
        source: as `read` takes it.
        model: as the next, as `network_of` takes it.
        resolution: side of the images in pixels.
        weights: `ema` or `model`.

    Raises:
        InputError: as `read`, `network_of` and `load_into` do.
    """
    found = read(source, weights)
    network = network_of(found, source, model=model, resolution=resolution)
    with torch.device("meta"):  # takes no memory, and draws nothing from the global generator
        built = network.kind(**network.config.kwargs())
    state = dict(found.state)
    if "pos_embed" not in state:
        state["pos_embed"] = sincos_table(network.config.hidden_size, network.config.grid_size)
    check_keys(built, state, str(source))
    built.load_state_dict({key: value.to(torch.float32) for key, value in state.items()}, assign=True)
    notes = (*found.notes, *network.notes)
    return built.eval(), Checkpoint(found.state, found.record, found.arguments, network.kind.__name__, notes)


def unwrapped(model: nn.Module) -> DiT:
    """The network inside whatever torch.compile, DataParallel or a moving average put around it.

    Raises:
        InputError: there is no network of this project inside.
    """
    network = model
    while not isinstance(network, DiT):
        inner = getattr(network, "_orig_mod", None) or getattr(network, "module", None)
        if not isinstance(inner, nn.Module):
            raise InputError(f"a {type(model).__name__} is no network of this project; give a DiT or DyDiT")
        network = inner
    return network


def plain_state(network: DiT) -> dict[str, Tensor]:
    """The state dict in the published keys, also where wrappers stand around blocks or other parts of the network."""
    parts = {
        key: [part for part in key.split(".") if part not in (*WRAPPERS, "module")] for key in network.state_dict()
    }
    return {".".join(parts[key]): value for key, value in network.state_dict().items()}


def load_into(model: nn.Module, checkpoint: Checkpoint, where: str = "checkpoint") -> list[str]:
    """Load weights strictly into a model, except that a static DiT may fill a DyDiT.

    Returns:
        The router keys that a static checkpoint could not fill (they keep their initial, open values); else empty.

    Raises:
        InputError: no network of this project, or a key or a shape differs; the first one is named.
    """
    network = unwrapped(model)
    unfilled = check_keys(network, checkpoint.state, where)
    network.load_state_dict(checkpoint.state, strict=not unfilled)
    return unfilled


def check_keys(model: DiT, state: Mapping[str, Tensor], where: str) -> list[str]:
    """Compare a state dict with what a model needs; returns the router keys that a static one leaves unfilled.

    Raises:
        InputError: a key or a shape differs; the first one is named.
    """
    own = model.state_dict()
    unfilled = [key for key in own if is_router_key(key)]
    if not (unfilled and not any(is_router_key(key) for key in state)):
        unfilled = []
    kind = type(model).__name__
    for key in own:
        if key in unfilled:
            continue
        if key not in state:
            raise InputError(f"{where}: key {key} is missing; this is no checkpoint of a {kind}")
        if state[key].shape != own[key].shape:
            raise InputError(f"{where}: {_shape_message(key, state[key], own[key], model.config)}")
    for key in state:
        if key not in own:
            raise InputError(f"{where}: unexpected key {key}; this is no checkpoint of a {kind}")
    return unfilled


def _shape_message(key: str, given: Tensor, wanted: Tensor, config: DiTConfig) -> str:
    text = f"{key} has shape {tuple(given.shape)}, the model needs {tuple(wanted.shape)}; "
    side = math.isqrt(given.shape[1]) if key == "pos_embed" and given.ndim == 3 else 0
    if side and side**2 == given.shape[1] and given.shape[2] == config.hidden_size:
        pixels = side * config.patch_size
        latent = f"--resolution {pixels * VAE_DOWNSAMPLING} for a model of latents, {pixels} for one of pixels"
        return f"{text}it was trained at another resolution: {latent}"
    return f"{text}choose the model it was made for"


# What a file tells


def _recorded(checkpoint: Checkpoint, where: str | Path) -> DiTConfig | None:
    """The configuration that the project's own files record; None for files of others."""
    names = set(DiTConfig.__dataclass_fields__)
    if "config" in checkpoint.record:
        fields = json.loads(checkpoint.record["config"])
    else:
        fields = {name: value for name, value in checkpoint.arguments.items() if name in names}
        defaults = {"mlp_ratio", "class_dropout_prob", "num_classes", "learn_sigma", "head_width"}
        if not names - defaults <= fields.keys():
            return None
    if not set(fields) <= names:
        raise InputError(f"{where}: its configuration {str(fields)[:80]} is not one of a DiT; write the file again")
    _check_size(fields, checkpoint.state, where)
    try:
        return DiTConfig(**fields)
    except TypeError as error:
        raise InputError(f"{where}: its configuration lacks a field ({error}); write the file again") from None


def _check_size(fields: Mapping[str, Any], state: Mapping[str, Tensor], where: str | Path) -> None:
    """Compare a recorded depth and width with the weights, before a network of that size is built."""
    depth = 1 + max((int(key.split(".")[1]) for key in state if re.match(r"blocks\.\d+\.", key)), default=-1)
    if fields.get("depth") != depth:
        raise InputError(f"{where}: its configuration says depth = {fields.get('depth')}, its weights have {depth}")
    patches = state.get("x_embedder.proj.weight")
    if patches is not None and fields.get("hidden_size") != patches.shape[0]:
        width = fields.get("hidden_size")
        raise InputError(f"{where}: its configuration says hidden_size = {width}, its weights have {patches.shape[0]}")


def _check_parametrisation(checkpoint: Checkpoint, where: str | Path, model: str | None) -> None:
    """Refuse networks that share DiT's keys and predict something else than noise."""
    said = {**checkpoint.arguments, "model": model or checkpoint.arguments.get("model")}
    name = str(said.get("model") or said.get("_class_name") or "")
    if re.match(r"(?i)(sit|flow|lightningdit|repa)\b", name):
        raise InputError(f"{where}: says it is {name}, {_OTHER}; it needs a DiT or DyDiT that predicts noise")
    for key in ("prediction", "prediction_type", "path_type", "objective", "parameterization", "predict_xstart"):
        value = said.get(key)
        if value in (None, False, "epsilon", "eps", "noise"):
            continue
        raise InputError(f"{where}: says {key} = {value!r}, {_OTHER}; it needs a DiT or DyDiT that predicts noise")


def _from_shapes(checkpoint: Checkpoint, where: str | Path, model: str | None, notes: list[str]) -> DiTConfig:
    """The configuration that the shapes of the weights, the training's arguments and the name asked for agree on."""
    state, said = checkpoint.state, checkpoint.arguments

    def shape(key: str, rank: int) -> tuple[int, ...]:
        if key not in state:
            raise InputError(f"{where}: key {key} is missing; this is no checkpoint of a {_family(state)}")
        if state[key].ndim != rank or 0 in state[key].shape:
            raise InputError(f"{where}: {key} has shape {tuple(state[key].shape)}; this is no (Dy)DiT's")
        return tuple(state[key].shape)

    width, channels, patch, _ = shape("x_embedder.proj.weight", 4)
    depth = 1 + max((int(key.split(".")[1]) for key in state if re.match(r"blocks\.\d+\.", key)), default=-1)
    hidden, _ = shape("blocks.0.mlp.fc1.weight", 2)
    outputs, _ = shape("final_layer.linear.weight", 2)
    rows, _ = shape("y_embedder.embedding_table.weight", 2)
    out_channels = outputs / patch**2
    if out_channels not in (channels, 2 * channels):
        raise InputError(
            f"{where}: {out_channels:g} output channels of {channels} input channels; a DiT has as many, or twice as "
            "many where it predicts a variance"
        )
    classes, dropout = _classes(rows, said, model, where, notes)
    return DiTConfig(
        input_size=_input_size(state, said, patch, where),
        patch_size=patch,
        in_channels=channels,
        hidden_size=width,
        depth=depth,
        num_heads=_heads(state, said, model, width, where),
        mlp_ratio=hidden / width,
        class_dropout_prob=dropout,
        num_classes=classes,
        learn_sigma=out_channels == 2 * channels,
    )


def _family(state: Mapping[str, Tensor]) -> str:
    return "DyDiT" if any(is_router_key(key) for key in state) else "DiT"


def _input_size(state: Mapping[str, Tensor], said: Mapping[str, Any], patch: int, where: str | Path) -> int:
    if "pos_embed" in state:
        tokens = state["pos_embed"].shape[1] if state["pos_embed"].ndim == 3 else 0
        side = math.isqrt(tokens)
        if not side or side**2 != tokens:
            shape = tuple(state["pos_embed"].shape)
            raise InputError(f"{where}: pos_embed has shape {shape}; it is not that of a square image")
        return side * patch
    size = said.get("sample_size")
    if not isinstance(size, int):
        raise InputError(f"{where}: neither a position table nor config.json tells the image's size; put it beside")
    return size


def _heads(state: Mapping[str, Tensor], said: Mapping[str, Any], model: str | None, width: int, where: object) -> int:
    if _WIDTH_ROUTER in state:
        return int(state[_WIDTH_ROUTER].shape[0]) + 1
    if isinstance(said.get("num_attention_heads"), int):
        return int(said["num_attention_heads"])
    for name in (model, said.get("model")):
        if isinstance(name, str) and re.fullmatch(r"(Dy)?DiT-\w+/\d+(-\w+)?", name):
            return model_config(name).num_heads
    heads = published_heads(width)
    if heads is None:
        raise InputError(
            f"{where}: weights of width {width} do not tell the number of heads, and the file does not name its model; "
            "give --model, such as DiT-XL/2"
        )
    return heads


def _classes(
    rows: int, said: Mapping[str, Any], model: str | None, where: object, notes: list[str]
) -> tuple[int, float]:
    """Classes and label dropout (0: the table has no null row) that the rows of the label table stand for."""
    told = said.get("num_classes", said.get("num_embeds_ada_norm"))
    if told is None and model is not None:
        asked = model_config(model).num_classes
        told = asked if rows in (asked, asked + 1) else None
    if told is None:
        notes.append(f"{rows - 1} classes and the null label, from the {rows} rows of the label table")
        return rows - 1, 0.1
    if rows == told:
        notes.append(f"{told} classes, and no null label: the label table has {rows} rows")
        return int(told), 0.0
    if rows != told + 1:
        raise InputError(f"{where}: says {told} classes, its label table has {rows} rows; one of them is wrong")
    if told != 1000:
        notes.append(f"{told} classes and the null label")
    return int(told), 0.1


def _kind(checkpoint: Checkpoint, where: str | Path, model: str | None) -> type[DiT]:
    routed = any(is_router_key(key) for key in checkpoint.state)
    if checkpoint.kind is not None:
        if checkpoint.kind in KINDS:
            return KINDS[checkpoint.kind]
        if "kind" in checkpoint.record:
            raise InputError(f"{where}: says it is a {checkpoint.kind}; known are {', '.join(KINDS)}")
    if model is not None and model.startswith("DyDiT") and not routed:
        static = model.removeprefix("Dy")
        raise InputError(f"{where}: a static DiT, it holds no routers; use --model {static}")
    return DyDiT if routed else DiT


def _check_names(
    config: DiTConfig, kind: type[DiT], where: str | Path, model: str | None, resolution: int | None
) -> None:
    """Compare what the file tells with the name and the resolution asked for, and show both where they differ."""
    if model is None:
        if resolution is not None and resolution not in (config.input_size, config.input_size * VAE_DOWNSAMPLING):
            side = config.input_size
            raise InputError(
                f"{where}: its position table is of images of {side * VAE_DOWNSAMPLING} pixels (latents of {side}), "
                f"--resolution says {resolution}; leave it out"
            )
        return
    if model.startswith("DiT") and kind is not DiT:
        raise InputError(f"{where}: holds routers, it is a {kind.__name__}; use --model Dy{model}")
    asked = model_config(model, resolution)
    for name in ("depth", "hidden_size", "num_heads", "patch_size", "in_channels", "input_size"):
        mine, theirs = getattr(config, name), getattr(asked, name)
        if mine != theirs:
            remedy = "choose the model it was made for, or leave --model out"
            if name == "input_size":
                remedy = f"give --resolution {mine * VAE_DOWNSAMPLING} for latents of this size"
            raise InputError(f"{where}: has {name} = {mine}, {model} has {theirs}; {remedy}")
