"""Feature extractors for the quality metrics, and the one pass over images that all metrics share.

`digits-cnn` is a small classifier of handwritten digits that works offline; `inception-v3-compat` is torch-fidelity's
InceptionV3 with weights from a file. A metric means nothing without its extractor, so every metric name carries it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.quality.features import inception
from bench.quality.features.digits_cnn import DIGITS_WEIGHTS, load_digits_classifier
from bench.quality.features.inception import SPATIAL
from bench.records import file_sha256
from dydit import InputError


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
