"""Feature extractors for the quality metrics, and the one pass over images that all metrics share.

`digits-cnn` is a small classifier of handwritten digits that works offline; `inception-v3-compat` is torch-fidelity's
InceptionV3 with weights from a file. A metric means nothing without its extractor, so every metric name carries it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from bench import digits_cnn, inception
from bench.digits_cnn import DIGITS_WEIGHTS, load_digits_classifier
from bench.inception import SPATIAL
from bench.progress import track
from dydit.errors import InputError

if TYPE_CHECKING:
    from bench.images import Images
    from bench.streams import StreamedImages

BATCH_SIZE = 64
WORKERS = 4
"""Processes that read images for a GPU; a CPU is busy with the network, and reads between its batches."""


@dataclass(frozen=True)
class Weights:
    """A weights file that was checked, and the SHA-256 (hexadecimal) of its content."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class ExtractorSpec:
    """One feature extractor: what the suite must know before torch-fidelity is asked to build it.

    `label` stands in metric names, `registered` is the name in torch-fidelity's registry, `dimensions` the length of
    each layer's features. `image_size` is the only side accepted, in pixels (None: any). `default_weights` tells where
    the file is by default, `sha256` is the digest of the only file accepted unasked (None: any), and `check` opens a
    file and raises InputError when it does not serve.
    """

    name: str
    label: str
    registered: str
    features_layer: str
    spatial_layer: str
    logits_layer: str
    dimensions: Mapping[str, int]
    image_size: int | None
    default_weights: Callable[[], Path]
    sha256: str | None
    check: Callable[[Path], object]
    remedy: str

    def metric(self, metric: str) -> str:
        """Name of a metric as it stands in every row, for example `FID[digits-cnn]`."""
        return f"{metric}[{self.label}]"

    def check_size(self, name: str, size: tuple[int, int]) -> None:
        """Refuse images (`name` says which) of a size (H, W) that this extractor does not take.

        Raises:
            InputError: another size than `image_size`.
        """
        if self.image_size is not None and size != (self.image_size, self.image_size):
            raise InputError(
                f"{name}: {size[0]}x{size[1]} pixels; {self.name} takes {self.image_size}x{self.image_size}, "
                "use another extractor"
            )

    def weights(self, given: Path | None = None, sha256: str | None = None) -> Weights:
        """The weights file to use, checked: first its digest, then what is in it.

        Args:
            given: the file; by default where `default_weights` says. Nothing is ever downloaded.
            sha256: 64 hexadecimal digits that the file must have, in place of the known ones.

        Raises:
            InputError: no such file (named, with where to get it), another digest (both shown), or an unusable file.
        """
        path = given or self.default_weights()
        if not path.is_file():
            raise InputError(
                f"{self.name}: weights file {path} not found; {self.remedy}, or give its path with --weights"
            )
        if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise InputError(f"{self.name}: {sha256!r} is no SHA-256; give all 64 hexadecimal digits")
        expected, found = (sha256 or self.sha256 or "").lower(), file_sha256(path)
        if expected and found != expected:
            raise InputError(
                f"{self.name}: {path} has SHA-256 {found}, expected {expected}; {self.remedy}; "
                "use another file only on purpose, with its digest in --weights-sha256"
            )
        self.check(path)
        return Weights(path, found)


EXTRACTORS: dict[str, ExtractorSpec] = {
    spec.name: spec
    for spec in (
        ExtractorSpec(
            name="digits-cnn",
            label="digits-cnn",
            registered="digits-cnn",
            features_layer="64",
            spatial_layer=SPATIAL,
            logits_layer="logits_unbiased",
            dimensions={"64": 64, SPATIAL: 4 * 4 * inception.SPATIAL_CHANNELS, "logits_unbiased": 10},
            image_size=8,
            default_weights=lambda: DIGITS_WEIGHTS,
            sha256=None,
            check=load_digits_classifier,
            remedy="restore it from the repository or train it again with `nox -s small_scale`",
        ),
        ExtractorSpec(
            name=inception.NAME,
            label=inception.NAME,
            registered=f"{inception.NAME}-spatial",
            features_layer="2048",
            spatial_layer=SPATIAL,
            logits_layer="logits_unbiased",
            dimensions={"2048": 2048, SPATIAL: 17 * 17 * inception.SPATIAL_CHANNELS, "logits_unbiased": 1008},
            image_size=None,
            default_weights=inception.cached_weights,
            sha256=inception.SHA256,
            check=inception.check_weights,
            remedy=f"download {inception.URL} and put it there",
        ),
    )
}


def extractor(name: str) -> ExtractorSpec:
    """Look an extractor up by its short name.

    Raises:
        InputError: unknown name; the known ones are listed.
    """
    if name not in EXTRACTORS:
        raise InputError(f"unknown feature extractor {name!r}; choose one of {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name]


def file_sha256(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stream(
    images: Images | StreamedImages,
    name: str,
    layers: Sequence[str],
    weights: Path | Weights | None = None,
    batch_size: int = BATCH_SIZE,
    label: str = "features",
) -> Iterator[dict[str, NDArray[Any]]]:
    """Features of all images in order, one batch at a time; on the GPU when there is one, and nothing is kept.

    Convolutions compute as torch's flags say, as in torch-fidelity: on a GPU with TF32 unless it is switched off.

    Args:
        images: uint8 (3, H, W) each, all of one size.
        name: extractor in `EXTRACTORS`.
        layers: of that extractor, for example `[spec.features_layer, spec.spatial_layer]`.
        weights: its weights file, by default where the extractor looks; `Weights` are not checked again.
        batch_size: images per forward pass; moves features by rounding only.
        label: what the progress bar is called.

    Returns:
        One dict a batch: layer to (n, D), float32 from InceptionV3, float64 from digits-cnn.

    Raises:
        InputError: an unknown extractor, weights, images or a batch size that cannot be used, before any work; and,
            while it runs, an image that cannot be read or features that are not finite.
    """
    spec = extractor(name)
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}; it must be at least 1")
    spec.check_size(images.name, images.size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = open_network(name, weights, layers, device)
    return run(network, images, layers, batch_size, label)


def open_network(
    name: str, weights: Path | Weights | None, layers: Sequence[str], device: torch.device | str
) -> nn.Module:
    """The extractor as a module: uint8 (N, 3, H, W) to a tuple of (N, D), one a layer, in the order asked for.

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
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
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


def run(
    network: nn.Module,
    images: Images | StreamedImages,
    layers: Sequence[str],
    batch_size: int,
    label: str = "features",
) -> Iterator[dict[str, NDArray[Any]]]:
    """What `stream` yields, through a network of `open_network` with the same layers, on the device where it is.

    Raises:
        InputError: an image that cannot be read, or features that are not finite.
    """
    device = next(network.parameters()).device
    on_gpu = device.type == "cuda"
    # Several workers would mix the order of a stream.
    workers = 1 if isinstance(images, IterableDataset) else min(WORKERS, os.cpu_count() or 1)
    loader = DataLoader(
        images,
        batch_size=batch_size,
        num_workers=workers if on_gpu else 0,
        pin_memory=on_gpu,
        generator=torch.Generator(),  # the loader seeds its workers; the global generator stays untouched
    )
    start = 0
    for batch in track(_loaded(loader), f"{label}, batches of {batch_size}", total=-(-len(images) // batch_size)):
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


def _loaded(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    """The batches; from a worker's InputError the traceback goes that torch puts before it."""
    try:
        yield from loader
    except InputError as error:
        raise InputError(str(error).rstrip().rsplit(f"{InputError.__name__}: ", 1)[-1]) from None


@functools.cache
def register() -> None:
    """Make both networks known to torch-fidelity; called before every use, because torch-fidelity is imported late."""
    import torch_fidelity

    for spec, network in zip(EXTRACTORS.values(), (digits_cnn.network_class(), inception.network_class()), strict=True):
        torch_fidelity.register_feature_extractor(spec.registered, network)
