"""Checkpoint files as they lie on the disk: a path enters; its tensors, with whatever else the file holds, leave.

PyTorch files are read with `weights_only`, so that no code in them runs. Beside tensors and plain containers a few
harmless classes are admitted: argparse.Namespace, which the authors' training checkpoints hold, paths, and the classes
of NumPy scalars. Tensors are mapped from the file, so that memory is taken for those alone that are used.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dydit.checkpoint.checksums import archive_sha256, check_content, content_sha256, is_damaged
from dydit.checkpoint.json_objects import parse_object, read_object
from dydit.errors import InputError, first_line

PUBLISHED = {
    "dydit-xl-2-lambda-0.7": ("heisejiasuo/DyDiT", "new_release_2025_03_26/new_dydit0.7.pt"),
    "dydit-xl-2-lambda-0.5": ("heisejiasuo/DyDiT", "new_release_2025_03_26/new_dydit0.5.pt"),
}
"""Released checkpoints by short name: hub repository and file."""
WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin")
"""Names under which a folder holds its weights, in the order of looking; each may have an index of parts instead."""
_INDEX = ".index.json"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.(safetensors|bin)")
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    pathlib.Path,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFD"),
]


@dataclass(frozen=True)
class RawFile:
    """What a checkpoint file holds, before anything is made of it.

    `content` is a state dict or a dictionary around some, `metadata` the text that safetensors carry, and `config` the
    `config.json` beside the weights, in folders that have one.
    """

    path: Path
    content: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def read_raw(source: str | Path) -> RawFile:
    """Read a checkpoint file, a folder that holds one, or the index of one in parts.

    Args:
        source: a .safetensors, .pt, .pth, .ckpt or .bin file; an index such as `model.safetensors.index.json`; a
            folder, also a pipeline of diffusers; or a name of `PUBLISHED`, which the hub supplies.

    Raises:
        InputError: no such file, or one that is truncated, holds classes that could run code, or is something else.
    """
    path = _weights_file(locate(source))
    config = _config_beside(path)
    if path.name.endswith(_INDEX):
        state, metadata = _read_parts(path)
        return RawFile(path, state, metadata, config)
    shard = _SHARD.fullmatch(path.name)
    if shard and int(shard[3]) > 1:
        raise InputError(
            f"{path}: part {int(shard[2])} of {int(shard[3])} alone; give the folder, or {shard[1]}.{shard[4]}{_INDEX}"
        )
    if path.suffix == ".safetensors":
        return RawFile(path, *_read_safetensors(path), config)
    return RawFile(path, _read_pytorch(path), config=config)


def locate(source: str | Path) -> Path:
    """The file or folder of a path, or of a name of `PUBLISHED` after fetching it from the hub.

    Raises:
        InputError: there is none.
    """
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
    if not path.is_file() and not path.is_dir():
        names = ", ".join(PUBLISHED)
        kind = "a device or pipe, not a file" if path.exists() else "no such checkpoint file"
        raise InputError(f"{path}: {kind}; give a .safetensors or .pt file, or one of {names}")
    return path


def _weights_file(path: Path) -> Path:
    """The weights, or their index, of a folder; a file as it is."""
    if not path.is_dir():
        return path
    folder = path / "transformer" if (path / "model_index.json").is_file() else path
    for name in WEIGHTS:
        for candidate in (folder / name, folder / f"{name}{_INDEX}"):
            if candidate.is_file():
                return candidate
    raise InputError(f"{path}: a folder without weights; it would hold one of {', '.join(WEIGHTS)}; or give the file")


def _config_beside(path: Path) -> dict[str, Any]:
    """`config.json` in the folder of the weights; empty where there is none that is a JSON object."""
    try:
        return read_object(path.parent / "config.json", "correct it")
    except (FileNotFoundError, InputError):
        return {}


def _read_parts(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of weights in several files, as their index lists them."""
    try:
        weight_map = dict(read_object(index, "give the weights")["weight_map"])
        names = sorted({str(name) for name in weight_map.values()})
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: no index of weights in parts ({first_line(error)}); give the weights") from None
    state: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        part = index.parent / name
        if Path(name).name != name or not part.is_file():
            raise InputError(f"{index}: names the part {name!r}, which does not lie beside it; fetch every part")
        found, text = _read_safetensors(part) if part.suffix == ".safetensors" else (_read_pytorch(part), {})
        state |= {key: value for key, value in found.items() if weight_map.get(key) == name}
        metadata |= text
    if missing := sorted(weight_map.keys() - state.keys()):
        raise InputError(f"{index}: lists {missing[0]} in {weight_map[missing[0]]}, which does not hold it")
    return state, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text of a file; both are compared with the checksum that this project's own files carry."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({first_line(error)}); fetch it again") from None
    if any(is_damaged(name, "record") for name in metadata):
        raise InputError(f"{path}: its record has another name, so the file has changed; make it again")
    if "record" in metadata:
        record = parse_object(metadata["record"], f"{path}: its record", "write the file again")
        check_content(record, lambda: content_sha256(state, record), str(path), "make it again")
        metadata["record"] = json.dumps(record)
    return state, metadata


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and record of a file, as `dydit.checkpoint.write_tensors` wrote them.

    Raises:
        InputError: not a whole file of safetensors, or one whose content has changed.
    """
    state, metadata = _read_safetensors(path)
    return state, parse_object(metadata.get("record", "{}"), f"{path}: its record", "write the file again")


def _read_pytorch(path: Path) -> dict[str, Any]:
    if (kind := another_kind(path)) is not None:
        raise InputError(f"{path}: {kind}, not a checkpoint; give a .safetensors or .pt file")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # advice about unsafe loading, which nobody should follow
            # Files of PyTorch before 1.6 are no zip archives: they cannot be mapped, and hold no checksums.
            if archive := zipfile.is_zipfile(path):
                archive_sha256(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise InputError(_unsafe(path, error)) from None
    except Exception as error:  # damaged bytes raise many kinds; a user needs one line
        raise InputError(f"{path}: not a whole PyTorch file ({first_line(error)}); fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state dict; give a (Dy)DiT checkpoint")
    return content


def _unsafe(path: Path, error: pickle.UnpicklingError) -> str:
    """The message about a file that cannot be read without running code, or that is no pickle at all."""
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            classes: Iterable[str] = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # not a file of torch.save, or one before PyTorch 1.6
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        classes = [named[1]] if named else []
    names = ", ".join(sorted(classes)[:5])
    if names:
        return (
            f"{path}: refused, it holds objects of {names} beside tensors, which could run code; nothing of it was "
            "run. Save the weights alone, as torch.save(checkpoint['ema'], FILE) does, or as safetensors"
        )
    if "Unsupported operand" in str(error):  # that is what bytes of no pickle look like
        return f"{path}: not a whole PyTorch file; fetch it again"
    return (
        f"{path}: refused, it holds pickled code beside tensors and nothing of it was run; "
        "use a file of plain tensors or safetensors"
    )


def another_kind(path: Path) -> str | None:
    """What a file is by its first bytes, where that is plainly no checkpoint: an archive, a picture, text, an array."""
    with path.open("rb") as file:
        head = file.read(64)
    signatures = {
        b"\x93NUMPY": "a NumPy array (.npy)",
        b"\x89PNG": "a PNG picture",
        b"\xff\xd8\xff": "a JPEG picture",
        b"\x89HDF": "an HDF5 file",
        b"\x1f\x8b": "a gzip archive",
        b"{": "a JSON text",
        b"version https://git-lfs": "a pointer of git-lfs, whose file was not fetched",
        b"<": "a web page or XML, perhaps an error message saved in place of the file",
    }
    for signature, kind in signatures.items():
        if head.startswith(signature):
            return kind
    try:
        return _kind_of_archive(path) if head else "an empty file"
    except Exception:  # damaged archives raise many kinds, and what they were cannot be told
        return None


def _kind_of_archive(path: Path) -> str | None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as zipped:
            names = zipped.namelist()
        if len(set(names)) < len(names):
            return "an archive in which two members have one name"
        if any(name.endswith("data.pkl") for name in names):
            return None
        return "NumPy arrays (.npz)" if any(name.endswith(".npy") for name in names) else "a zip archive"
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:  # a file of zeros is one, too, without members
            return "a tar archive" if archive.next() is not None else None
    return None
