"""Whether samples, reference, extractor and metrics belong together, checked before any long work."""

from __future__ import annotations

from bench.data.image_set import Images
from bench.quality.features import ExtractorSpec, Weights
from bench.quality.references.reference import Reference
from bench.quality.settings import IMAGEWISE, Settings
from bench.quality.values import NEIGHBOURS, SPLITS
from dydit import InputError

_LEAST = {"FID": 2, "sFID": 2, "KID": 2, "precision": NEIGHBOURS + 1, "recall": NEIGHBOURS + 1, "IS": SPLITS}
"""Images that a metric needs of each set."""


def check_pair(settings: Settings, samples: Images, reference: Images | Reference) -> None:
    """Refuse samples and a reference that cannot be used, do not belong together, or are too few.

    Raises:
        InputError: otherwise; both are named where they do not belong together.
    """
    settings.spec.check_size(samples.name, samples.size)
    if reference.size not in (None, samples.size):
        sides = [f"{side.name} has {side.size[0]}x{side.size[1]} pixels" for side in (samples, reference) if side.size]
        raise InputError(f"{', '.join(sides)}; samples and reference must have one resolution")
    _check_count(samples.name, len(samples), settings.metrics)
    if isinstance(reference, Images):
        # Images become a reference with statistics for the FID, whatever is asked for.
        _check_count(reference.name, len(reference), (settings.metrics | {"FID"}) - {"IS"})
    else:
        _check_reference(reference, settings.spec, settings.metrics)


def check_weights(reference: Reference, weights: Weights) -> None:
    """Refuse a reference that was made with other weights of the extractor.

    Raises:
        InputError: other weights; both checksums are shown.
    """
    recorded = reference.record.get("weights_sha256", weights.sha256)
    if recorded != weights.sha256:
        raise InputError(
            f"reference {reference.name} was made with weights of SHA-256 {recorded}, {weights.path} has "
            f"{weights.sha256}; use the same weights, or build the reference again"
        )


def _check_count(name: str, count: int, metrics: frozenset[str]) -> None:
    metric = max(sorted(metrics), key=_LEAST.__getitem__)
    if count < _LEAST[metric]:
        use = f"{SPLITS} splits of the Inception Score need" if metric == "IS" else f"{metric} needs"
        raise InputError(f"{name}: {count} images; {use} at least {_LEAST[metric]}, add images or leave the metric out")


def _check_reference(reference: Reference, spec: ExtractorSpec, metrics: frozenset[str]) -> None:
    """Refuse a reference by another extractor, or without what the metrics need.

    Raises:
        InputError: otherwise; both extractors are named.
    """
    name = f"reference {reference.name}"
    if reference.extractor not in (None, spec.name):
        raise InputError(
            f"{name} was made with {reference.extractor}, the samples are measured with {spec.name}; "
            "choose the same --extractor, or another reference"
        )
    if misfit := reference.misfit(spec):
        raise InputError(
            f"{name} was made with another extractor than {spec.name}: {misfit}; choose the same --extractor, or "
            "another reference"
        )
    if "sFID" in metrics and reference.spatial is None:
        raise InputError(f"{name} has no mu_s and sigma_s, which sFID needs; leave it out of --metrics")
    if imagewise := metrics & IMAGEWISE:
        images = reference.rows if reference.rows is not None else reference.images
        if images is None:
            raise InputError(
                f"{name} has neither features nor images, which {', '.join(sorted(imagewise))} need; "
                "leave them out of --metrics"
            )
        _check_count(name, len(images), imagewise)
