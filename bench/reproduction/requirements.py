"""What a long run needs and may not find: checkpoint, autoencoder, extractor weights, reference, data set, disk.

Every check looks at this machine alone: nothing is downloaded, and no large file is read. A run that names everything
it lacks first (`check_requirements`) does not stop after a day for a file that was never there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from bench.generation import decoding
from bench.machine import free_bytes
from bench.quality.features import extractors
from bench.quality.references import manifest
from bench.records import portable
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
    """Check what a run needs.

    Raises:
        InputError: something is missing; all of it is named in one line, each with its remedy.
    """
    missing = [f"{need.name} ({need.where}): {need.remedy}" for need in needs if not need.present]
    if missing:
        raise InputError(f"{run}: {len(missing)} missing: {'; '.join(missing)}")


def requirements_table(needs: Iterable[Requirement]) -> pd.DataFrame:
    """One row per need; paths as they may be published."""
    rows = [
        {
            "need": portable(need.name),
            "present": "yes" if need.present else "missing",
            "where": portable(need.where),
            "how to get it": "" if need.present else portable(need.remedy),
        }
        for need in needs
    ]
    return pd.DataFrame(rows)


def run_requirements(
    source: str,
    *,
    vae: str | None = None,
    reference: str | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    weights_sha256: str | None = None,
    data_root: Path | None = None,
) -> list[Requirement]:
    """What a run and its scoring need of files, each looked for on this machine alone.

    Args:
        source: the checkpoint, a file or a published name.
        vae: the autoencoder (None: a model of pixels).
        reference: what the images are compared with (None: they are not).
        extractor: name of the feature extractor (None: nothing is scored).
        weights: its file, where that does not lie where the extractor looks.
        weights_sha256: the digest of that file, where it is not the published one.
        data_root: directory of data sets and downloaded files.

    Raises:
        InputError: no such extractor, or no such split of a data set.
    """
    needs = [checkpoint_requirement(source)]
    if vae is not None:
        needs.append(autoencoder_requirement(vae))
    if extractor is not None:
        needs.append(extractor_requirement(extractor, weights, weights_sha256))
    if reference is not None:
        needs.append(reference_requirement(reference, data_root))
    return needs


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
    statistics = entry.find(data_root) if entry is not None else None
    if statistics is not None:
        return Requirement(name, True, str(statistics), "")
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
            files = locate(name, split, data_root)
        except InputError as error:  # some of its files
            return Requirement(title, False, str(data_root), str(error))
        return Requirement(title, files is not None, str(files or data_root), remedy)
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
    return next((record for record in records if any(record.glob(f"*-{split}*.arrow"))), None)


def disk_requirement(directory: Path, needed: int) -> Requirement:
    """Free space, in bytes, on the disk where `directory` is or will be."""
    existing = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    where = f"{portable(str(directory))}: {free / 2**30:.1f} GiB free"
    return Requirement(
        f"{needed / 2**30:.1f} GiB of disk", free >= needed, where, "make room, or name another directory"
    )


def memory_requirement(device: torch.device, needed: int) -> Requirement:
    """Free memory, in bytes, on a device of this machine; what the system does not say counts as enough."""
    free = free_bytes(device)
    where = f"{device}: " + ("unknown" if free is None else f"{free / 2**30:.1f} GiB free")
    enough = free is None or free >= needed
    return Requirement(f"{needed / 2**30:.1f} GiB of memory", enough, where, "choose a smaller --unit")


def _on_hub(name: str, repository: str, files: list[str], other: str) -> Requirement:
    """Files of a hub repository, all of them in the cache."""
    from huggingface_hub import constants, try_to_load_from_cache

    paths = [try_to_load_from_cache(repository, file) for file in files]
    present = all(isinstance(path, str) for path in paths)
    where = f"the hub's cache {constants.HF_HUB_CACHE}"
    if present:
        where = str(paths[0]) if len(files) == 1 else str(Path(str(paths[0])).parent)
    return Requirement(name, present, where, f"run `hf download {repository} {' '.join(files)}`, or {other}")
