"""Whether the images of a run that has not started can be scored once they are made."""

from __future__ import annotations

from bench.data.sets.catalogue import DATASETS
from bench.quality.features import extractors
from bench.quality.references.manifest import load_manifest
from bench.reproduction.network import Network
from dydit import InputError


def check_scoring(network: Network, reference: str, extractor: str) -> None:
    """Compare the images of a network with what a reference and a feature extractor take.

    Raises:
        InputError: images that could not be compared with the reference, or no such extractor.
    """
    spec = extractors.extractor(extractor)
    side, width, _ = network.shape
    spec.check_size("the run", (side, width))
    entry = load_manifest().get(reference)
    data = DATASETS.get(reference.partition("/")[0])
    resolution = entry.resolution if entry is not None else data.resolution if data and data.native else None
    if resolution not in (None, side):
        raise InputError(
            f"reference {reference}: images of {resolution} pixels, the run makes {side}; "
            "choose the reference of that resolution"
        )
    if entry is not None and data is None and entry.extractor != spec.name:
        raise InputError(
            f"reference {entry.name}: made with {entry.extractor}, the scoring uses {spec.name}; "
            f"give --extractor {entry.extractor}"
        )
