"""The one pass over images that all metrics share: features of every image, batch by batch."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from bench.machine import track
from bench.quality.features.extractors import EXTRACTORS, ExtractorSpec, Weights, extractor
from bench.records import tf32_flags
from dydit import InputError

if TYPE_CHECKING:
    from bench.data.image_set import ImageSet

Item = TypeVar("Item")


BATCH_SIZE = 64
WORKERS = 4
"""Processes that read images for a GPU."""
AHEAD = 2
"""Batches that are read ahead by a thread on a CPU, while the network computes; more would only take memory."""


def stream_features(
    images: ImageSet,
    name: str,
    layers: Sequence[str],
    weights: Path | Weights | None = None,
    batch_size: int = BATCH_SIZE,
    label: str = "features",
) -> Iterator[dict[str, NDArray[Any]]]:
    """Features of all images in order, one batch at a time, on the GPU when there is one; nothing is kept.

    As in torch-fidelity, torch's flags decide how convolutions compute: on a GPU with TF32 unless it is switched off.

    Args:
        images: uint8 (3, H, W) each, all of one size.
        name: extractor in `EXTRACTORS`.
        layers: of that extractor, for example `[spec.features_layer, spec.spatial_layer]`.
        weights: its weights file, by default where the extractor looks; `Weights` are not checked again.
        batch_size: images per forward pass; changes features by rounding only.
        label: of the progress bar.

    Returns:
        One dict per batch: layer to (n, D), float32 from InceptionV3, float64 from the project's classifiers.

    Raises:
        InputError: an unknown extractor, or weights, images or a batch size that cannot be used, before any work; and,
            while it runs, an image that cannot be read or features that are not finite.
    """
    spec = extractor(name)
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}; it must be at least 1")
    spec.check_size(images.name, images.size)
    network = open_network(name, weights, layers, _device())
    return run_network(network, images, layers, batch_size, label)


def describe_arithmetic(spec: ExtractorSpec) -> str:
    """In which precision `stream_features` computes, as torch's flags are now, such as `float32 on cpu`.

    On a GPU that has TF32, float32 convolutions and matrix products may take inputs rounded to 10 bits: the text says
    of both whether they do, for example `float32 on cuda, TF32 in convolutions, not in matrix products`.
    """
    device = _device()
    precision = f"{str(spec.dtype).removeprefix('torch.')} on {device.type}"
    if spec.dtype != torch.float32 or device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8:
        return precision
    tf32 = tf32_flags()
    if tf32["convolution"] == tf32["matmul"]:
        return f"{precision}, {'TF32' if tf32['matmul'] else 'no TF32'} in convolutions and matrix products"
    names = ("convolutions", "matrix products") if tf32["convolution"] else ("matrix products", "convolutions")
    return f"{precision}, TF32 in {names[0]}, not in {names[1]}"


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def open_network(
    name: str, weights: Path | Weights | None, layers: Sequence[str], device: torch.device | str
) -> nn.Module:
    """The extractor as a module: uint8 (N, 3, H, W) to a tuple of (N, D), one per layer, in the order of `layers`.

    Raises:
        InputError: an unknown extractor or layer, or weights that cannot be used.
    """
    spec = extractor(name)
    if not layers or len(set(layers)) < len(layers) or not set(layers) <= spec.dimensions.keys():
        raise InputError(f"{name}: layers {list(layers)}; choose from {', '.join(spec.dimensions)}, each once")
    checked = weights if isinstance(weights, Weights) else spec.weights(weights)
    register()
    from torch_fidelity.utils import create_feature_extractor

    try:
        with torch.random.fork_rng(devices=[]):  # layers draw their initial weights from the global generator
            network: nn.Module = create_feature_extractor(
                spec.registered,
                list(layers),
                cuda=False,
                feature_extractor_weights_path=str(checked.path),
                verbose=False,
            )
    except RuntimeError as error:  # load_state_dict's list of what does not fit
        raise InputError(f"{name}: {checked.path} holds the weights of another network; {spec.remedy}") from error
    return network.to(device)


def run_network(
    network: nn.Module,
    images: ImageSet,
    layers: Sequence[str],
    batch_size: int,
    label: str = "features",
) -> Iterator[dict[str, NDArray[Any]]]:
    """What `stream_features` yields, by a network of `open_network` with the same layers, on the network's device.

    Raises:
        InputError: an image that cannot be read, or features that are not finite.
    """
    device = next(network.parameters()).device
    on_gpu = device.type == "cuda"
    # A stream is read by one worker, because several would mix its order.
    workers = 1 if isinstance(images, IterableDataset) else min(WORKERS, os.cpu_count() or 1)
    loader = DataLoader(
        images,
        batch_size=batch_size,
        num_workers=workers if on_gpu else 0,
        pin_memory=on_gpu,
        generator=torch.Generator(),  # seeds the workers, so that the global generator stays untouched
    )
    start, total = 0, -(-len(images) // batch_size)
    read = _batches(loader)
    for batch in track(read if on_gpu else read_ahead(read), f"{label}, batches of {batch_size}", total=total):
        with torch.inference_mode():
            values = [value.cpu().numpy() for value in network(batch.to(device, non_blocking=True))]
        stop = start + len(batch)
        for layer, value in zip(layers, values, strict=True):
            if not np.isfinite(value).all():
                raise InputError(
                    f"{images.name}: features ({layer}) of images {start} to {stop - 1} are NaN or infinite; "
                    "the extractor's weights are broken"
                )
        yield dict(zip(layers, values, strict=True))
        start = stop


def _batches(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    """The batches of a loader, whose errors are one line.

    Where a worker process raises an InputError, torch raises another one, whose message is the whole traceback of the
    worker; only its last line, the message itself, is kept.
    """
    try:
        yield from loader
    except InputError as error:
        raise InputError(str(error).rstrip().rsplit(f"{InputError.__name__}: ", 1)[-1]) from None


def read_ahead(batches: Iterable[Item], ahead: int = AHEAD) -> Iterator[Item]:
    """The same batches in the same order, of which a thread reads `ahead` while something is done with the last one.

    Pictures are decoded outside of Python's lock. An error is raised where its batch would have come.
    """
    source, reader = iter(batches), ThreadPoolExecutor(1, "images")
    try:
        pending = deque(reader.submit(next, source, None) for _ in range(ahead))
        while (batch := pending.popleft().result()) is not None:
            pending.append(reader.submit(next, source, None))
            yield batch
    finally:
        reader.shutdown(cancel_futures=True)


@functools.cache
def register() -> None:
    """Make all networks known to torch-fidelity, on their first use, because torch-fidelity is slow to import."""
    import torch_fidelity

    for spec in EXTRACTORS.values():
        torch_fidelity.register_feature_extractor(spec.registered, spec.network())
