"""FID of two models as a ratio: both drew image k from the same label and noise, so luck that they share cancels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data.image_set import Images
from bench.quality.features import extraction, extractors
from bench.quality.metrics.frechet import FidReference
from bench.quality.metrics.intervals import bootstrap_fid_ratio
from bench.quality.references.build import build_reference
from bench.quality.references.reference import Reference

RESAMPLES = 100
"""Behind the interval; at 2048 features each costs about two seconds."""


def paired_fid_ratio(
    one: Images, other: Images, reference: Images | Reference, extractor: str
) -> tuple[float, float, float]:
    """FID(one) / FID(other) with a 95 % interval over resampled pairs of images.

    Args:
        one: image k has the label and noise of image k of `other`.
        other: as many images.
        reference: what both are compared with.
        extractor: name in `extractors.EXTRACTORS`; its features of both sets are kept in memory, 8 kB per image.

    Raises:
        InputError: sets of different size, or images, weights or a reference that cannot be used.
    """
    if isinstance(reference, Images):
        reference = build_reference(reference, extractor, name=reference.name, record={})
    gaussian = FidReference(reference.pool)
    above, below = (_features(images, extractor) for images in (one, other))
    return bootstrap_fid_ratio(above, below, gaussian, resamples=RESAMPLES)


def _features(images: Images, extractor: str) -> NDArray[np.floating]:
    layer = extractors.extractor(extractor).features_layer
    stream = extraction.stream_features(images, extractor, [layer], label=f"features of {images.name}")
    return np.concatenate([batch[layer] for batch in stream])
