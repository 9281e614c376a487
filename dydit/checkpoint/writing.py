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
from dydit.checkpoint.checksums import CHECKSUM, content_sha256
from dydit.checkpoint.layouts import check_values, diffusers_keys
from dydit.checkpoint.network import KINDS, check_keys, plain_state, unwrapped
from dydit.dit import DiT
from dydit.errors import InputError, first_line

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Types of numbers that weights are stored in; the reader makes float32 of all of them."""


def write(
    path: Path, model: nn.Module, record: Mapping[str, str] | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write a model as safetensors, whole or not at all, with its kind, configuration and a text record.

    What `load_model` would refuse to read back is refused here, before anything is written.

    Args:
        path: the file.
        model: a DiT, DyDiT or ablation, also where torch.compile, DataParallel or another wrapper stands around it or
            around its blocks.
        record: text for the reader of the file.
        dtype: of the stored weights; float16 halves the file.

    Raises:
        InputError: not a network of this project, one whose parts were changed, weights that are not finite in `dtype`,
            another `dtype` than those of `DTYPES`, or a record that is not text.
        OSError: the file cannot be written.
    """
    network = unwrapped(model)
    if dtype not in DTYPES:
        raise InputError(f"{path}: weights in {dtype}; choose one of {', '.join(map(str, DTYPES))}")
    for name, text in (record or {}).items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise InputError(f"{path}: the record has {name!r}: {text!r:.80}; give text, such as json.dumps makes")
    named = {**(record or {}), "kind": type(network).__name__, "config": json.dumps(network.config.kwargs())}
    write_tensors(path, _stored(network, dtype, path), named)


def _stored(network: DiT, dtype: torch.dtype, path: Path) -> dict[str, Tensor]:
    """The weights of a network as they are stored, which its reader would take.

    Raises:
        InputError: it would not.
    """
    kind = type(network)
    if KINDS.get(kind.__name__) is not kind:
        raise InputError(
            f"{path}: a {kind.__name__} could not be read back, known are {', '.join(KINDS)}; copy its weights into one"
        )
    with torch.device("meta"):  # takes no memory
        like = kind(**network.config.kwargs())
    own = plain_state(network)
    check_keys(like, own, str(path))
    if any(value.is_meta for value in own.values()):
        raise InputError(f"{path}: the network has shapes and no values; load its weights first")
    state = {key: value.detach().to(dtype) for key, value in own.items()}
    check_values(state, path)
    return state


def write_tensors(path: Path, state: Mapping[str, Tensor], record: Mapping[str, str]) -> None:
    """Write tensors as safetensors with a text record, whole or not at all; equal content gives equal bytes.

    The record gets the checksum of both, which `read_tensors` compares.

    Raises:
        OSError: the file cannot be written.
    """
    # One metadata entry: safetensors writes several in random order.
    metadata = {"record": json.dumps({**record, CHECKSUM: content_sha256(state, record)}, sort_keys=True)}
    with atomic_path(path) as partial:
        try:
            save_file(_apart(state), partial, metadata)
        except SafetensorError as error:  # its word for a full disk, too
            raise OSError(first_line(error)) from None


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in memory of their own each, which safetensors wants: networks may share weights between blocks."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in state.items():
        where = value.untyped_storage().data_ptr()
        apart[key] = value.contiguous().clone() if where in seen else value.contiguous()
        seen.add(where)
    return apart


def write_diffusers(directory: Path, model: nn.Module) -> None:
    """Write a static DiT as a folder that diffusers' `DiTTransformer2DModel.from_pretrained` reads.

    Raises:
        InputError: a network that diffusers does not have: with routers, without a null label, with another MLP; or
            weights that are not finite.
        OSError: a file cannot be written.
    """
    network = unwrapped(model)
    if type(network) is not DiT:
        raise InputError(f"{directory}: a {type(network).__name__} has routers; diffusers knows the static DiT alone")
    config = network.config
    if config.head_width is not None:
        raise InputError(f"{directory}: heads of the network were pruned away, which diffusers' DiT does not know")
    for name, wanted in (("null_label", config.num_classes), ("mlp_hidden", 4 * config.hidden_size)):
        if getattr(config, name) != wanted:
            raise InputError(f"{directory}: has {name} = {getattr(config, name)}, diffusers' DiT has {wanted}")
    own = _stored(network, network.pos_embed.dtype, directory)
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
    state = diffusers_keys(own, config.depth)
    with atomic_path(directory / "diffusion_pytorch_model.safetensors") as partial:
        save_file({key: value.contiguous().clone() for key, value in state.items()}, partial, {"format": "pt"})
    with atomic_path(directory / "config.json") as partial:
        partial.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
