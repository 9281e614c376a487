"""What a file or folder is: a checkpoint, images or reference statistics, with the facts that a bug report needs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.data import shards, sources
from bench.data.folder import picture_files
from bench.data.image_set import describe_classes, read_class_table
from bench.data.sets.catalogue import DATASETS
from bench.quality.references.reference import read_reference
from bench.records import array_names, file_sha256, portable
from dydit import VAE_DOWNSAMPLING, InputError, checkpoint, first_line, is_router_key
from dydit.checkpoint.files import WEIGHTS, locate

Facts = dict[str, str]
"""Name of a fact -> its value in words, in the order to be shown."""
CHECKPOINTS = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})
_RECORDED = (
    "command",
    "commit",
    "started",
    "data",
    "data_sha256",
    "parent_sha256",
    "final_loss",
    "final_ratio",
    "seed",
)


def inspect(source: str, *, model: str | None = None, resolution: int | None = None, weights: str = "ema") -> Facts:
    """Facts about a file, a folder, or the name of a published checkpoint or a data set.

    Args:
        source: what to look at.
        model: name of the network, for checkpoints that do not tell it.
        resolution: side of its images in pixels, likewise.
        weights: `ema` or `model`, of a training checkpoint.

    Raises:
        InputError: nothing there, or something that is none of these; the message says what it is.
    """
    path = Path(source)
    if source in checkpoint.PUBLISHED or path.suffix.lower() in CHECKPOINTS or _holds_weights(path):
        return _checkpoint_facts(source, model, resolution, weights)
    if path.suffix == ".npz" and "mu" in array_names(path):
        return _statistics_facts(path)
    return _image_facts(source)


def _holds_weights(path: Path) -> bool:
    names = (*WEIGHTS, *(f"{name}.index.json" for name in WEIGHTS), "model_index.json")
    return path.name.endswith(".index.json") or any((path / name).is_file() for name in names)


def _checkpoint_facts(source: str, model: str | None, resolution: int | None, weights: str) -> Facts:
    path = locate(source)
    network, found = checkpoint.load_model(source, model=model, resolution=resolution, weights=weights)
    config = network.config
    pixels = "" if config.in_channels in (1, 3) else f" (latents of {config.input_size * VAE_DOWNSAMPLING} pixels)"
    null = "a null label" if config.class_dropout_prob else "no null label"
    facts = {
        "what": "checkpoint",
        "file": portable(str(path)),
        **_file_facts(path),
        "network": type(network).__name__,
        "configuration": ", ".join(f"{name} = {value}" for name, value in config.kwargs().items()),
        "parameters": f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        "classes": f"{config.num_classes} and {null}",
        "resolution": f"{config.input_size} x {config.input_size}{pixels}, channels: {config.in_channels}",
        "parametrisation": f"noise{' and variance' if config.learn_sigma else ''}",
        "routing": _routing(found.state),
        "dtype": _dtypes(found.state),
        "values": "finite",  # `load_model` refuses others
    }
    if "recipe" in found.record:
        recipe = json.loads(found.record["recipe"])
        facts["recipe"] = ", ".join(f"{name} = {value}" for name, value in recipe.items())
    if "classes" in found.record:
        facts["trained classes"] = _trained_classes(found.record["classes"])
    said = {name: value for name, value in found.arguments.items() if isinstance(value, (str, int, float, bool))}
    if said:
        facts["training arguments"] = ", ".join(f"{name} = {value}" for name, value in list(said.items())[:30])
    facts |= {name: found.record[name] for name in _RECORDED if name in found.record}
    if found.notes:
        facts["notes"] = "; ".join(found.notes)
    return facts


def _trained_classes(text: str) -> str:
    try:
        return describe_classes(read_class_table(text))
    except ValueError as error:
        return f"a table that cannot be read ({first_line(error)})"


def _routing(state: dict[str, Tensor]) -> str:
    routers = sum(is_router_key(key) for key in state)
    return f"{routers} tensors of routers" if routers else "none, a static network"


def _dtypes(state: dict[str, Tensor]) -> str:
    counts = Counter(str(value.dtype).removeprefix("torch.") for value in state.values())
    return ", ".join(f"{kind} ({count} tensors)" for kind, count in counts.most_common())


def _statistics_facts(path: Path) -> Facts:
    reference = read_reference(path)
    rows = "none" if reference.rows is None else f"features of {len(reference.rows)} images"
    size = "not said" if reference.size is None else f"{reference.size[0]} x {reference.size[1]}"
    record = {key: value for key, value in reference.record.items() if isinstance(value, (str, int, float))}
    return {
        "what": "reference statistics",
        "file": portable(str(path)),
        **_file_facts(path),
        "extractor": reference.extractor or "not said",
        "images": str(reference.pool.count or "not said"),
        "size": size,
        "features": str(len(reference.pool.mean)),
        "spatial statistics": "no" if reference.spatial is None else "yes",
        "kept rows": rows,
        **{key: str(value) for key, value in record.items()},
    }


def _image_facts(source: str) -> Facts:
    path = Path(source)
    images = sources.open_images(source)
    facts = {"what": "images", "source": images.name if source in DATASETS else portable(source)}
    if path.is_file():
        facts |= _file_facts(path)
    facts |= {"images": str(len(images)), "size": f"{images.size[0]} x {images.size[1]}"}
    if path.is_dir() and not shards.is_run(path):
        formats = Counter(file.suffix.lower() for file in picture_files(path))
        facts["formats"] = ", ".join(f"{suffix} ({count})" for suffix, count in formats.most_common())
    if path.is_dir() and shards.is_run(path):
        identity = shards.read_manifest(path).identity
        facts["run of generate"] = ", ".join(f"{key} = {value}" for key, value in identity.items())
    facts["labels"] = _labels(images)
    return facts


def _labels(images: Any) -> str:
    if not images.has_labels:
        return "none"
    try:
        return describe_classes(images.classes)
    except InputError as error:
        return f"unusable: {error}"


def _file_facts(path: Path) -> Facts:
    if not path.is_file():
        return {}
    return {"bytes": f"{path.stat().st_size:,}", "sha256": file_sha256(path)}
