"""The feature extractors by name, and their weights files, checked before use.

`digits-cnn` and `fashion-cnn` are small classifiers trained in this project; `inception-v3-compat` and the three
`dinov2-vit-...` are torch-fidelity's InceptionV3 and DINOv2 with weights from a file. A metric means nothing without
its extractor, so every metric name carries it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.quality.features import classifiers, dinov2, inception
from bench.quality.features.classifiers import ClassifierKind
from bench.quality.features.dinov2 import DinoKind
from bench.quality.features.layers import LOGITS, SPATIAL, SPATIAL_CHANNELS
from bench.records import check_listed, file_sha256
from dydit import InputError


@dataclass(frozen=True)
class Weights:
    """A weights file that was checked, and the SHA-256 (hexadecimal) of its content."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class ExtractorSpec:
    """One feature extractor: what must be known before torch-fidelity builds it.

    Attributes:
        name: on the command line.
        label: in metric names.
        registered: in torch-fidelity's registry.
        network: gives the class that is registered there.
        features_layer: of FID, precision, recall and KID.
        spatial_layer: of sFID; None: it has none, and so no sFID.
        logits_layer: of the Inception Score; None as before.
        dimensions: length of the features of each layer.
        dtype: in which the network computes.
        image_size: the only side accepted, in pixels; None: any.
        default_weights: gives the path of the weights file where none is named.
        sha256: checksum of the only weights file accepted unless another is asked for; None: any.
        check: opens a weights file and raises InputError when it cannot be used.
        remedy: how to get the weights file, for messages.
    """

    name: str
    label: str
    registered: str
    network: Callable[[], type[nn.Module]]
    features_layer: str
    spatial_layer: str | None
    logits_layer: str | None
    dimensions: Mapping[str, int]
    dtype: torch.dtype
    image_size: int | None
    default_weights: Callable[[], Path]
    sha256: str | None
    check: Callable[[Path], object]
    remedy: str

    @property
    def statistics_layers(self) -> tuple[str, ...]:
        """The layers that references have statistics of: of FID, and of sFID where there is one."""
        return (self.features_layer, *((self.spatial_layer,) if self.spatial_layer is not None else ()))

    def lacks(self, metric: str) -> bool:
        """Whether this extractor has no layer for a metric, such as `IS`."""
        return {"sFID": self.spatial_layer, "IS": self.logits_layer}.get(metric, self.features_layer) is None

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

    def weights(self, path: Path | None = None, sha256: str | None = None) -> Weights:
        """The weights file to use, checked: first its checksum, then its content.

        Args:
            path: the file; by default that of `default_weights`. Nothing is ever downloaded.
            sha256: 64 hexadecimal digits that the file must have, in place of the known ones.

        Raises:
            InputError: no such file (named, with where to get it), another checksum (both are shown), or an unusable
                file.
        """
        path = path or self.default_weights()
        if not path.is_file():
            raise InputError(
                f"{self.name}: weights file {path} not found; {self.remedy}, or give its path with --weights"
            )
        if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise InputError(f"{self.name}: {sha256!r} is no SHA-256; give all 64 hexadecimal digits")
        expected, own = (sha256 or self.sha256 or "").lower(), file_sha256(path) if sha256 else check_listed(path)
        if expected and own != expected:
            raise InputError(
                f"{self.name}: {path} has SHA-256 {own}, expected {expected}; {self.remedy}; "
                "use another file only on purpose, with its digest in --weights-sha256"
            )
        self.check(path)
        return Weights(path, own)


def _of_classifier(kind: ClassifierKind, command: str) -> ExtractorSpec:
    """The extractor that a classifier of this project makes; `command` trains it."""
    return ExtractorSpec(
        name=kind.name,
        label=kind.name,
        registered=kind.name,
        network=functools.partial(classifiers.network_class, kind),
        features_layer=str(classifiers.FEATURES),
        spatial_layer=SPATIAL,
        logits_layer=LOGITS,
        dimensions={
            str(classifiers.FEATURES): classifiers.FEATURES,
            SPATIAL: kind.map_side**2 * SPATIAL_CHANNELS,
            LOGITS: classifiers.CLASSES,
        },
        dtype=torch.float64,
        image_size=kind.side,
        default_weights=lambda: kind.weights,
        sha256=None,
        check=functools.partial(classifiers.load_classifier, kind),
        remedy=f"restore it from the repository or train it again with `{command}`",
    )


def _of_dinov2(kind: DinoKind) -> ExtractorSpec:
    """The extractor that a published DINOv2 makes."""
    return ExtractorSpec(
        name=kind.name,
        label=kind.name,
        registered=f"{kind.name}-file",  # torch-fidelity has the name itself, for its own
        network=functools.partial(dinov2.network_class, kind),
        features_layer=dinov2.LAYER,
        spatial_layer=None,
        logits_layer=None,
        dimensions={dinov2.LAYER: kind.width},
        dtype=torch.float32,
        image_size=None,
        default_weights=kind.cached_weights,
        sha256=kind.sha256,
        check=functools.partial(dinov2.load_network, kind),
        remedy=f"download {kind.url} and put it there",
    )


EXTRACTORS: dict[str, ExtractorSpec] = {
    spec.name: spec
    for spec in (
        _of_classifier(
            classifiers.DIGITS, "restore it from the repository or train it again with `nox -s small_scale`"
        ),
        _of_classifier(
            classifiers.FASHION,
            "restore it from the repository or train it again with `nox -s small_scale -- --dataset fashion`",
        ),
        ExtractorSpec(
            name=inception.NAME,
            label=inception.NAME,
            registered=f"{inception.NAME}-spatial",
            network=inception.network_class,
            features_layer="2048",
            spatial_layer=SPATIAL,
            logits_layer=LOGITS,
            dimensions={"2048": 2048, SPATIAL: 17 * 17 * SPATIAL_CHANNELS, LOGITS: 1008},
            dtype=torch.float32,
            image_size=None,
            default_weights=inception.cached_weights,
            sha256=inception.SHA256,
            check=inception.check_weights,
            remedy=f"download {inception.URL} and put it there",
        ),
        *map(_of_dinov2, dinov2.KINDS),
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
