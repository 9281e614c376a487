"""Checkpoints in the project's own format: safetensors with the network's kind and configuration and a text record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from dydit.checkpoint.atomic import atomic_path
from dydit.checkpoint.layouts import diffusers_keys
from dydit.dit import DiT
from dydit.errors import InputError, first_line


def write(
    path: Path, model: nn.Module, record: Mapping[str, str] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model as safetensors, whole or not at all, with its kind, configuration and a text record.

    Args:
        path: the file.
        model: a DiT, DyDiT or ablation, also one that torch.compile or DistributedDataParallel has wrapped.
        record: text for the reader of the file.
        dtype: of the stored weights; float16 halves the file.

    Raises:
        InputError: not a network of this project.
        OSError: the file cannot be written.
    """
    network = unwrapped(model)
    named = {**(record or {}), "kind": type(network).__name__, "config": json.dumps(network.config.kwargs())}
    write_tensors(path, {key: value.to(dtype) for key, value in network.state_dict().items()}, named)


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
        except SafetensorError as error:  # its word for a full disk, too
            raise OSError(first_line(error)) from None


def write_diffusers(directory: Path, model: nn.Module) -> None:
    """Write a static DiT as a folder that diffusers' `DiTTransformer2DModel.from_pretrained` reads.

    Raises:
        InputError: a network with routers, which diffusers does not have.
        OSError: a file cannot be written.
    """
    network = unwrapped(model)
    if type(network) is not DiT:
        raise InputError(f"{directory}: a {type(network).__name__} has routers; diffusers knows the static DiT alone")
    config = network.config
    if config.head_width is not None:
        raise InputError(f"{directory}: heads of the network were pruned away, which diffusers' DiT does not know")
    facts = {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "sample_size": config.input_size,
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": config.num_classes,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "attention_bias": True,
    }
    state = diffusers_keys(network.state_dict(), config.depth)
    with atomic_path(directory / "diffusion_pytorch_model.safetensors") as partial:
        save_file({key: value.contiguous().clone() for key, value in state.items()}, partial, {"format": "pt"})
    with atomic_path(directory / "config.json") as partial:
        partial.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def unwrapped(model: nn.Module) -> DiT:
    """The network inside whatever torch.compile or DistributedDataParallel put around it.

    Raises:
        InputError: there is no network of this project inside.
    """
    network = model
    while not isinstance(network, DiT):
        inner = getattr(network, "_orig_mod", None) or getattr(network, "module", None)
        if not isinstance(inner, nn.Module):
            raise InputError(f"a {type(model).__name__} is no network of this project; write a DiT or DyDiT")
        network = inner
    return network
