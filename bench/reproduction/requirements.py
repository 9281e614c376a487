"""What a long run needs and may not find: checkpoint, autoencoder, extractor weights, reference, data set, disk.

Every check looks at this machine alone: nothing is downloaded, and no large file is read. A run that names all its
needs first (`check`) does not stop after a day for a file that was never there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bench.generation import decoding
from bench.machine import available
from bench.quality.features import extractors
from bench.quality.references import manifest
from dydit import InputError
from dydit.checkpoint import PUBLISHED

if TYPE_CHECKING:
    from bench.data.sets.catalogue import DataSet


VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
"""What diffusers reads of an autoencoder."""


@dataclass(frozen=True)
class Requirement:
    """One need of a run: where it is, or where it was looked for, and how to get it there."""

    name: str
    present: bool
    where: str
    remedy: str


def check_requirements(needs: Iterable[Requirement], run: str) -> None:
    """Raise InputError, naming everything that is missing of the needs of `run`, each with its remedy, in one line."""
    missing = [f"{need.name} ({need.where}): {need.remedy}" for need in needs if not need.present]
    if missing:
        raise InputError(f"{run}: {len(missing)} missing: {'; '.join(missing)}")


def checkpoint_requirement(source: str | Path) -> Requirement:
    """Trained weights: a file, or a name of `dydit.checkpoint.PUBLISHED` in the hub's cache."""
    name = f"checkpoint {source}"
    if str(source) in PUBLISHED:
        repository, file = PUBLISHED[str(source)]
        return _on_hub(name, repository, [file], "name a copy of the file")
    path = Path(source)
    return Requirement(name, path.is_file(), str(path), f"put the file there, or name one of {', '.join(PUBLISHED)}")


def autoencoder_requirement(source: str) -> Requirement:
    """The VAE of a latent model: a directory in diffusers' layout, or a name of `decoding.VAES` in the hub's cache."""
    name = f"autoencoder {source}"
    if source in decoding.VAES:
        return _on_hub(name, decoding.VAES[source], list(VAE_FILES), "give a copy of that repository as --vae DIR")
    missing = [file for file in VAE_FILES if not (Path(source) / file).is_file()]
    return Requirement(name, not missing, source, f"put {' and '.join(missing)} there, or name {decoding.DEFAULT_VAE}")


def extractor_requirement(name: str, weights: Path | None = None, sha256: str | None = None) -> Requirement:
    """The weights of a feature extractor; checked as a measurement would, by digest and content.

    Raises:
        InputError: no extractor of that name.
    """
    spec = extractors.extractor(name)
    where = weights or spec.default_weights()
    try:
        spec.weights(weights, sha256)
    except InputError as error:
        remedy = str(error) if where.is_file() else f"{spec.remedy}, or name the file"
        return Requirement(f"weights of {name}", False, str(where), remedy)
    return Requirement(f"weights of {name}", True, str(where), "")


def reference_requirement(source: str, data_root: Path | None = None) -> Requirement:
    """What samples are compared with, as `quality.open_reference` takes it: statistics, a data set, or a path."""
    from bench.data.sets.catalogue import DATASETS

    name = f"reference {source}"
    entry = manifest.load_manifest().get(source)
    found = entry.find(data_root) if entry is not None else None
    if found is not None:
        return Requirement(name, True, str(found), "")
    images, _, split = source.partition("/")
    if images in DATASETS:
        return dataset_requirement(images, data_root, split or None)
    if entry is not None:
        return Requirement(name, False, str(entry.places(data_root)[0]), entry.remedy())
    return Requirement(name, Path(source).exists(), source, "put it there, or name one of `bench stats list`")


def dataset_requirement(name: str, data_root: Path | None = None, split: str | None = None) -> Requirement:
    """One split of a data set (the default one), in local files or converted into the cache of `datasets`.

    Raises:
        InputError: no such split.
    """
    from bench.data.sets.catalogue import DATASETS
    from bench.data.sets.opening import locate

    entry = DATASETS[name]
    split = split or next(iter(entry.splits))
    if split not in entry.splits:
        raise InputError(f"data set {name}: no split {split!r}; choose one of {', '.join(entry.splits)}")
    title = f"data set {name}, split {split}"
    if entry.hub_id is None:
        return Requirement(title, True, "comes with scikit-learn", "")
    remedy = f"`hf download {entry.hub_id} --repo-type dataset --local-dir DIR/{name}`, then --data-root DIR"
    if entry.gated:
        remedy += ", after consent to its terms on the hub"
    if data_root is not None:
        try:
            found = locate(name, split, data_root)
        except InputError as error:  # some of its files
            return Requirement(title, False, str(data_root), str(error))
        return Requirement(title, found is not None, str(found or data_root), remedy)
    cached = _converted(entry, split)
    return Requirement(title, cached is not None, str(cached or "the cache of datasets"), remedy)


def _converted(entry: DataSet, split: str) -> Path | None:
    """The folder in the cache of `datasets` that holds a split of a hub data set as Arrow files."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    assert entry.hub_id is not None
    owner, name = entry.hub_id.split("/")
    folder = Path(config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}" / str(entry.config)
    records = [path.parent for path in folder.glob("*/*/dataset_info.json") if path.parent.suffix != ".incomplete"]
    return next((found for found in records if any(found.glob(f"*-{split}*.arrow"))), None)


def disk_requirement(directory: Path, needed: int) -> Requirement:
    """Free space, in bytes, on the disk where `directory` is or will be."""
    existing = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    said = f"{existing}: {free / 2**30:.1f} GiB free"
    return Requirement(
        f"{needed / 2**30:.1f} GiB of disk", free >= needed, said, "make room, or name another directory"
    )


def memory_requirement(device: torch.device, needed: int) -> Requirement:
    """Free memory, in bytes, on a device of this machine; what the system does not say counts as enough."""
    free = available(device)
    said = f"{device}: " + ("unknown" if free is None else f"{free / 2**30:.1f} GiB free")
    enough = free is None or free >= needed
    return Requirement(f"{needed / 2**30:.1f} GiB of memory", enough, said, "choose a smaller --unit")


def _on_hub(name: str, repository: str, files: list[str], other: str) -> Requirement:
    """Files of a hub repository, all of them in the cache."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = [try_to_load_from_cache(repository, file) for file in files]
    present = all(isinstance(path, str) for path in found)
    where = f"the hub's cache {constants.HF_HUB_CACHE}"
    if present:
        where = str(found[0]) if len(files) == 1 else str(Path(str(found[0])).parent)
    return Requirement(name, present, where, f"run `hf download {repository} {' '.join(files)}`, or {other}")
