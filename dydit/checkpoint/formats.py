"""Checkpoint files: PyTorch files in the published layouts are read, safetensors files are read and written.

PyTorch files are read with `weights_only`, so that no code in them runs. Beside tensors and plain containers they may
hold `argparse.Namespace`, which the authors' training checkpoints contain, and no other class.
"""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dydit.ablations import ABLATIONS
from dydit.checkpoint.atomic import atomic_path
from dydit.config import DiTConfig
from dydit.dit import DiT
from dydit.dydit import is_router_key
from dydit.errors import InputError, first_line

PUBLISHED = {
    "dydit-xl-2-lambda-0.7": ("heisejiasuo/DyDiT", "new_release_2025_03_26/new_dydit0.7.pt"),
    "dydit-xl-2-lambda-0.5": ("heisejiasuo/DyDiT", "new_release_2025_03_26/new_dydit0.5.pt"),
}
"""Released checkpoints by short name: hub repository and file."""

_NETWORKS: list[type[DiT]] = [DiT, *(ablation.kind for ablation in ABLATIONS.values())]
_KINDS = {network.__name__: network for network in _NETWORKS}


@dataclass(frozen=True)
class Checkpoint:
    """A state dict and the text record of its file (empty where the file has none)."""

    state: dict[str, Tensor]
    record: dict[str, str] = field(default_factory=dict)


def read_checkpoint(source: str | Path, weights: str = "ema") -> Checkpoint:
    """Read a checkpoint.

    Args:
        source: a local .safetensors, .pt or .pth file, or a name of `PUBLISHED`, which the hub supplies.
        weights: which weights of a training checkpoint to take, `ema` or `model`; ignored where the file holds one set.

    Raises:
        InputError: the file does not exist, is truncated, or holds code or no weights.
    """
    if weights not in ("ema", "model"):
        raise InputError(f"weights {weights!r}: choose ema or model")
    path = _locate(source)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {}).get("record", "{}"))
                return Checkpoint({key: file.get_tensor(key) for key in file.keys()}, record)  # noqa: SIM118
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({first_line(error)}); fetch it again") from None
    content = _read_pytorch(path)
    sets = [content[key] for key in (weights, "ema", "model") if isinstance(content.get(key), dict)]
    nested = sets[0] if sets else content
    state = {key: value for key, value in nested.items() if isinstance(value, Tensor)}
    if not state or len(state) != len(nested):
        raise InputError(f"{path}: holds no state dict under `ema`, `model` or at its top; give a (Dy)DiT checkpoint")
    return Checkpoint(state)


def load_into(model: DiT, checkpoint: Checkpoint, where: str = "checkpoint") -> list[str]:
    """Load weights strictly, except that a static DiT may fill a DyDiT.

    Returns:
        The router keys that a static checkpoint could not fill (they keep their initial, open values); else empty.

    Raises:
        InputError: a key or a shape differs; the first one is named.
    """
    state, own = checkpoint.state, model.state_dict()
    unfilled = [key for key in own if is_router_key(key)]
    if not (unfilled and not any(is_router_key(key) for key in state)):
        unfilled = []
    for key in own:
        if key in unfilled:
            continue
        if key not in state:
            raise InputError(f"{where}: key {key} is missing; this is no checkpoint of a {type(model).__name__}")
        if state[key].shape != own[key].shape:
            shape, wanted = tuple(state[key].shape), tuple(own[key].shape)
            raise InputError(
                f"{where}: {key} has shape {shape}, the model needs {wanted}; choose the model it was made for"
            )
    for key in state:
        if key not in own:
            raise InputError(f"{where}: unexpected key {key}; this is no checkpoint of a {type(model).__name__}")
    model.load_state_dict(state, strict=not unfilled)
    return unfilled


def write_model(
    path: Path, model: DiT, record: Mapping[str, str] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model as safetensors, whole or not at all, with its kind, configuration and a text record.

    `dtype` is the precision of the stored weights; float16 halves the file.
    """
    named = {**(record or {}), "kind": type(model).__name__, "config": json.dumps(model.config.kwargs())}
    write_tensors(path, {key: value.to(dtype) for key, value in model.state_dict().items()}, named)


def write_tensors(path: Path, state: Mapping[str, Tensor], record: Mapping[str, str]) -> None:
    """Write tensors as safetensors with a text record, whole or not at all; equal content gives equal bytes.

    Raises:
        OSError: the file cannot be written.
    """
    # One metadata entry: safetensors writes several in random order.
    metadata = {"record": json.dumps(dict(record), sort_keys=True)}
    with atomic_path(path) as partial:
        try:
            save_file({key: value.contiguous() for key, value in state.items()}, partial, metadata)
        except SafetensorError as error:  # safetensors raises it for a full disk, too
            raise OSError(first_line(error)) from None


def load_model(source: str | Path) -> tuple[DiT, dict[str, str]]:
    """Rebuild a model in evaluation mode from a file that `write_model` made, with its record.

    Raises:
        InputError: the file does not say which model it holds, or does not fit it.
    """
    checkpoint = read_checkpoint(source)
    try:
        kind = _KINDS[checkpoint.record["kind"]]
        config = DiTConfig(**json.loads(checkpoint.record["config"]))
    except (KeyError, TypeError, json.JSONDecodeError):
        raise InputError(f"{source}: does not name its model; give its name, as in --model DyDiT-XL/2") from None
    model = kind(**config.kwargs())
    load_into(model, checkpoint, str(source))
    return model.eval(), checkpoint.record


def _locate(source: str | Path) -> Path:
    if str(source) in PUBLISHED:
        from huggingface_hub import hf_hub_download

        repository, name = PUBLISHED[str(source)]
        try:
            return Path(hf_hub_download(repository, name))
        except Exception as error:  # the hub raises many kinds; a user needs one line
            raise InputError(
                f"{source}: cannot fetch {name} from {repository} ({first_line(error)}); "
                "download it where there is a network and give its path"
            ) from None
    path = Path(source)
    if not path.is_file():
        names = ", ".join(PUBLISHED)
        raise InputError(f"{path}: no such checkpoint file; give a .safetensors or .pt file, or one of {names}")
    return path


def _read_pytorch(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch advises to load such files unsafely
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" not in str(error):  # torch says so of bytes that are no pickle
            raise InputError(
                f"{path}: refused, it holds pickled code beside tensors and nothing of it was run; "
                "use a file of plain tensors or safetensors"
            ) from None
        raise InputError(f"{path}: not a whole PyTorch file; fetch it again") from None
    except Exception as error:  # damaged bytes raise many kinds; a user needs one line
        raise InputError(f"{path}: not a whole PyTorch file ({first_line(error)}); fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state dict; give a (Dy)DiT checkpoint")
    return content
