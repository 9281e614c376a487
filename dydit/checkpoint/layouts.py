"""One state dict in the published keys, out of whatever a checkpoint file wraps around it.

Training checkpoints hold several sets of weights, wrappers put a prefix before every key, and diffusers names the same
tensors otherwise. What was taken and what was left is said in words, for the user to read.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dydit.checkpoint.files import RawFile, read_raw
from dydit.checkpoint.json_objects import parse_object
from dydit.errors import InputError

SETS = {
    "ema": ("ema", "ema_state_dict", "model_ema", "ema_model"),
    "model": ("model", "model_state_dict", "state_dict", "module"),
}
"""Names under which a file keeps the moving average, and the weights of the last step."""
_ANCHOR = "x_embedder.proj.weight"
"""A key that every network of this family has; what stands before it is a prefix."""
_DIFFUSERS_ANCHOR = "pos_embed.proj.weight"
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of keys that torch.compile, FSDP and activation checkpointing put between others."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one network, with what their file says about them.

    Args:
        state: state dict in the published keys.
        record: text that the project's own files carry (empty for others).
        arguments: plain facts of a training checkpoint or of a `config.json`, such as `model`, `num_classes`.
        kind: name of the network's class, where the file names it.
        notes: what was taken of the file and what was left or changed, one sentence each.
    """

    state: dict[str, Tensor]
    record: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    notes: tuple[str, ...] = ()


def read(source: str | Path, weights: str = "ema") -> Checkpoint:
    """Read the weights of one network.

    Args:
        source: as `dydit.checkpoint.files.read_raw` takes it.
        weights: which weights of a training checkpoint to take, `ema` or `model`; ignored where the file holds one set.

    Raises:
        InputError: a file that cannot be read, or one that holds no weights of this family of networks, or weights that
            cannot be right (NaN, infinite, not floating-point); the first such key is named.
    """
    if weights not in SETS:
        raise InputError(f"weights {weights!r}: choose ema or model")
    raw = read_raw(source)
    chosen, arguments, notes = _chosen(raw, weights)
    state, more = _plain_keys(chosen, raw.path)
    if _DIFFUSERS_ANCHOR in state and _ANCHOR not in state:
        state = published_keys(state, raw.path)
        more.append("keys renamed from diffusers' layout")
    check_values(state, raw.path)
    record = _record(raw)
    arguments = {**raw.config, **arguments}
    kind = record.get("kind") or arguments.get("network") or None
    return Checkpoint(state, record, arguments, kind if isinstance(kind, str) else None, tuple(notes + more))


def check_values(state: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse weights that no network can have been trained to.

    Raises:
        InputError: a tensor that is not floating-point, or holds NaN or infinity; the first is named.
    """
    for key, value in state.items():
        if not value.is_floating_point():
            raise InputError(f"{path}: {key} holds {value.dtype}; weights are floating-point numbers")
        if value.is_meta:
            raise InputError(f"{path}: {key} has a shape and no values; save the weights themselves")
        # The sum of finite numbers in double precision is finite, and takes no memory of the tensor's size.
        if not torch.isfinite(value.sum(dtype=torch.float64)):
            raise InputError(f"{path}: {key} holds NaN or infinity; the training diverged or the file is damaged")


def _record(raw: RawFile) -> dict[str, str]:
    again = "write the file again"
    found = parse_object(raw.metadata.get("record", "{}"), f"{raw.path}: its record", again)
    if not all(isinstance(value, str) for value in found.values()):
        raise InputError(f"{raw.path}: its record is no table of texts; {again}")
    for name in ("config", "recipe"):  # objects themselves, which readers of the record take for granted
        parse_object(found.get(name, "{}"), f"{raw.path}: {name} in its record", again, finite=name != "recipe")
    if {"training", "identity", "classes"} <= raw.content.keys():  # a checkpoint of this project's own fine-tuning
        found = {**found, "classes": json.dumps(raw.content["classes"], default=str)}
    return found


def _chosen(raw: RawFile, weights: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The set of weights asked for, the arguments of the training, and what was taken and left."""
    content = raw.content
    arguments = _plain(content.get("args") or content.get("hyper_parameters"))
    training, identity = content.get("training"), content.get("identity")
    if isinstance(training, dict) and isinstance(identity, dict):  # a checkpoint of this project's own fine-tuning
        names = {"ema": "average", "model": "model"}
        config = identity.get("config")
        arguments = {"network": identity.get("network"), **(config if isinstance(config, dict) else {})}
        taken = training.get(names[weights])
        note = f"{'the moving average' if weights == 'ema' else 'the last weights'} at step {training.get('step')}"
        return _tensors(taken, raw.path), arguments, [f"{note} of a training checkpoint"]
    found = {kind: name for kind, names in SETS.items() for name in names if isinstance(content.get(name), dict)}
    if not found:
        return _tensors(content, raw.path), arguments, []
    kind = weights if weights in found else next(iter(found))
    left = sorted(str(key) for key in content if key != found[kind])
    note = f"took the weights under {found[kind]!r}" + (f", left {', '.join(left[:6])}" if left else "")
    if kind != weights:
        note += f"; there is no {weights}"
    return _tensors(content[found[kind]], raw.path), arguments, [note]


def _tensors(found: Any, path: Path) -> dict[str, Tensor]:
    """A state dict, nested once more where a wrapper did that; anything but tensors in it is refused."""
    if isinstance(found, dict) and not any(isinstance(value, Tensor) for value in found.values()):
        inner = [value for value in found.values() if isinstance(value, dict)]
        if len(inner) == 1:
            found = inner[0]
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: holds no state dict under `ema`, `model` or at its top; give a (Dy)DiT checkpoint")
    state = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if len(state) != len(found):
        raise InputError(f"{path}: holds no state dict under `ema`, `model` or at its top; give a (Dy)DiT checkpoint")
    return state


def _plain(found: Any) -> dict[str, Any]:
    """Training arguments as a dictionary of plain values."""
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    return {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def _plain_keys(state: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict without the prefixes of wrappers, and what was taken off."""
    notes = []
    cleaned = {".".join(part for part in key.split(".") if part not in WRAPPERS): key for key in state}
    if any(new != old for new, old in cleaned.items()):
        notes.append("wrappers' names taken out of the keys")
    prefixes = {key.removesuffix(anchor) for key in cleaned for anchor in _anchors(key)}
    if len(prefixes) > 1:
        names = ", ".join(sorted(prefix or "(none)" for prefix in prefixes))
        raise InputError(
            f"{path}: holds several networks, under the prefixes {names}; save the one that is meant alone"
        )
    prefix = next(iter(prefixes), "")
    kept = {new.removeprefix(prefix): state[old] for new, old in cleaned.items() if new.startswith(prefix)}
    kept.pop("n_averaged", None)
    if prefix:
        notes.append(f"prefix {prefix!r} taken off the keys")
        if left := len(state) - len(kept):
            notes.append(f"{left} tensors without that prefix left")
    return kept, notes


def _anchors(key: str) -> Iterable[str]:
    """The anchor that a key ends with, as a whole part of it."""
    for anchor in (_ANCHOR, _DIFFUSERS_ANCHOR):
        if key == anchor or key.endswith(f".{anchor}"):
            yield anchor


# diffusers' names


_TOP = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_EMBEDDERS = {
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
}
_LABELS = ("norm1.emb.class_embedder.embedding_table.weight", "y_embedder.embedding_table.weight")
_QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")


def diffusers_keys(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The state dict of a static DiT in the keys of diffusers' DiTTransformer2DModel.

    Each of its blocks holds a copy of the timestep and label embedders; the position table is computed there.
    """
    made: dict[str, Tensor] = {}

    def take(theirs: str, ours: str) -> None:
        for kind in ("weight", "bias"):
            made[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]

    for theirs, ours in _TOP.items():
        take(theirs, ours)
    for index in range(depth):
        here, there = f"blocks.{index}", f"transformer_blocks.{index}"
        for theirs, ours in _BLOCK.items():
            take(f"{there}.{theirs}", f"{here}.{ours}")
        for theirs, ours in _EMBEDDERS.items():
            take(f"{there}.{theirs}", ours)
        made[f"{there}.{_LABELS[0]}"] = state[_LABELS[1]]
        for kind in ("weight", "bias"):
            parts = state[f"{here}.attn.qkv.{kind}"].chunk(3)
            made |= {f"{there}.{name}.{kind}": part for name, part in zip(_QKV, parts, strict=True)}
    return made


def published_keys(state: Mapping[str, Tensor], path: Path | str) -> dict[str, Tensor]:
    """The state dict of a DiTTransformer2DModel in the published keys, without the position table.

    Raises:
        InputError: a key that such a model has is missing, or one that it does not have is there.
    """
    rest = dict(state)

    def take(theirs: str) -> Tensor:
        if theirs not in rest:
            raise InputError(f"{path}: key {theirs} is missing; this is no whole DiTTransformer2DModel of diffusers")
        return rest.pop(theirs)

    made = {f"{ours}.{kind}": take(f"{theirs}.{kind}") for theirs, ours in _TOP.items() for kind in ("weight", "bias")}
    numbers = {int(key.split(".")[1]) for key in rest if key.startswith("transformer_blocks.") and _numbered(key)}
    for index in sorted(numbers):
        here, there = f"blocks.{index}", f"transformer_blocks.{index}"
        for kind in ("weight", "bias"):
            made[f"{here}.attn.qkv.{kind}"] = torch.cat([take(f"{there}.{name}.{kind}") for name in _QKV])
            for theirs, ours in _BLOCK.items():
                made[f"{here}.{ours}.{kind}"] = take(f"{there}.{theirs}.{kind}")
            for theirs, ours in _EMBEDDERS.items():  # equal in every block
                made[f"{ours}.{kind}"] = take(f"{there}.{theirs}.{kind}")
        made[_LABELS[1]] = take(f"{there}.{_LABELS[0]}")
    rest.pop("pos_embed.pos_embed", None)
    if rest:
        raise InputError(f"{path}: unexpected key {next(iter(rest))}; this is no DiTTransformer2DModel of diffusers")
    return made


def _numbered(key: str) -> bool:
    return re.fullmatch("[0-9]{1,9}", key.split(".")[1]) is not None
