"""Quality of generated images: FID, Inception Score, precision and recall through torch-fidelity.

Precision and recall use the same features as FID (the ADM protocol; torch-fidelity alone would take VGG16), the
Inception Score keeps the samples in order, nothing is cached on disk and nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bench import features, metrics
from bench.features import ExtractorSpec
from dydit.errors import InputError

NEIGHBOURS = 3
"""k of precision and recall."""
SPLITS = 10
"""Consecutive splits of the Inception Score, all of N / 10 images (the ADM protocol's 50,000 in splits of 5,000)."""
PARITY_RTOL = 1e-6
"""Bound on the relative difference of FID and Inception Score between torch-fidelity and `bench.metrics`."""


@dataclass(frozen=True)
class Quality:
    """Metrics of one set of samples against one reference, with what they were measured by.

    `inception_score` is the mean over splits (higher is better, at most the class count), `inception_score_std` their
    standard deviation; `precision` and `recall` are shares in [0, 1].
    """

    extractor: str
    weights_sha256: str
    n_samples: int
    n_reference: int
    fid: float
    inception_score: float
    inception_score_std: float
    precision: float
    recall: float

    def rows(self) -> list[dict[str, str | float | int]]:
        """One row per metric, named with its extractor: `{"metric": "FID[digits-cnn]", "value": ...}` and evidence."""
        spec = features.extractor(self.extractor)
        values = {
            "FID": self.fid,
            "IS": self.inception_score,
            "IS_std": self.inception_score_std,
            "precision": self.precision,
            "recall": self.recall,
        }
        return [
            {
                "metric": spec.metric(name),
                "value": value,
                "n_samples": self.n_samples,
                "n_reference": self.n_reference,
                "weights_sha256": self.weights_sha256,
            }
            for name, value in values.items()
        ]


def evaluate(
    samples: Tensor,
    reference: Tensor,
    *,
    extractor: str = "digits-cnn",
    weights: Path | None = None,
    batch_size: int = features.BATCH_SIZE,
    splits: int = SPLITS,
) -> Quality:
    """Measure `samples` against `reference`; on the GPU when there is one.

    Args:
        samples: uint8 (N, C, H, W) with C = 1 or 3, in the order they were generated.
        reference: uint8 (M, C, H, W) of the same resolution.
        extractor: short name in `features.EXTRACTORS`.
        weights: its weights file; by default the one in the repository.
        batch_size: images per forward pass; changes speed and memory only.
        splits: consecutive splits of the Inception Score, of equal size up to one image.

    Raises:
        InputError: images or weights that cannot be used, or too few images for a metric; before any work.
    """
    spec = features.extractor(extractor)
    _check_batch(batch_size)
    _check_pair(samples, reference, spec, at_least=NEIGHBOURS + 1)
    if not 1 <= splits <= len(samples):
        raise InputError(f"samples: {len(samples)} images for {splits} splits of the Inception Score; lower the splits")
    path = spec.weights(weights)
    features.register()
    import torch_fidelity

    with torch.random.fork_rng(devices=[]):  # torch's DataLoader draws from the global generator
        values = torch_fidelity.calculate_metrics(
            input1=RGBImages(samples),
            input2=RGBImages(reference),
            feature_extractor=spec.name,
            feature_extractor_weights_path=str(path),
            feature_layer_isc=spec.logits_layer,
            feature_layer_fid=spec.features_layer,
            feature_layer_prc=spec.features_layer,
            isc=True,
            isc_splits=splits,
            samples_shuffle=False,
            fid=True,
            prc=True,
            prc_neighborhood=NEIGHBOURS,
            batch_size=batch_size,
            cuda=torch.cuda.is_available(),
            save_cpu_ram=True,  # no worker processes: the images are in memory already
            cache=False,
            verbose=False,
        )
    return Quality(
        extractor=spec.name,
        weights_sha256=features.file_sha256(path),
        n_samples=len(samples),
        n_reference=len(reference),
        fid=values["frechet_inception_distance"],
        inception_score=values["inception_score_mean"],
        inception_score_std=values["inception_score_std"],
        precision=values["precision"],
        recall=values["recall"],
    )


def fid_interval(
    samples: Tensor,
    reference: Tensor,
    *,
    extractor: str = "digits-cnn",
    weights: Path | None = None,
    batch_size: int = features.BATCH_SIZE,
    resamples: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of the FID under resampling of `samples`, so that small differences can be read.

    Features are extracted once; see `metrics.bootstrap_fid` for what the interval covers. Arguments as `evaluate`.

    Raises:
        InputError: images or weights that cannot be used.
    """
    spec = features.extractor(extractor)
    _check_pair(samples, reference, spec, at_least=2)
    layer = spec.features_layer
    gen, ref = (
        extract(images, [layer], extractor=extractor, weights=weights, batch_size=batch_size)[layer]
        for images in (samples, reference)
    )
    return metrics.bootstrap_fid(gen.numpy(), ref.numpy(), resamples=resamples, seed=seed)


def extract(
    images: Tensor,
    layers: list[str],
    *,
    extractor: str = "digits-cnn",
    weights: Path | None = None,
    batch_size: int = features.BATCH_SIZE,
) -> dict[str, Tensor]:
    """Features of uint8 (N, C, H, W) by layer name, each (N, D) on the CPU, as torch-fidelity itself extracts them.

    Raises:
        InputError: images or weights that cannot be used.
    """
    spec = features.extractor(extractor)
    _check_batch(batch_size)
    _check_images("images", images, spec)
    path = spec.weights(weights)
    features.register()
    from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

    cuda = torch.cuda.is_available()
    with torch.random.fork_rng(devices=[]):
        network = create_feature_extractor(
            spec.name, layers, cuda=cuda, feature_extractor_weights_path=str(path), verbose=False
        )
        by_layer: dict[str, Tensor] = get_featuresdict_from_dataset(
            RGBImages(images), network, batch_size, cuda, save_cpu_ram=True, verbose=False
        )
    return by_layer


class RGBImages(Dataset[Tensor]):
    """uint8 (N, C, H, W) as torch-fidelity takes it: a dataset of uint8 (3, H, W); grey is repeated."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index].expand(3, -1, -1)


def _check_batch(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}; it must be at least 1")


def _check_images(name: str, images: Tensor, spec: ExtractorSpec) -> None:
    if images.is_floating_point() and images.isnan().any():
        raise InputError(f"{name}: the images hold NaN; the model that made them diverged")
    if images.dtype != torch.uint8:
        raise InputError(f"{name}: {images.dtype}; images must be torch.uint8 (bench.digits.to_uint8 converts)")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"{name}: shape {tuple(images.shape)}; expected (N, C, H, W) with C = 1 or 3, none empty")
    height, width = images.shape[2:]
    if spec.image_size is not None and (height, width) != (spec.image_size, spec.image_size):
        raise InputError(
            f"{name}: {height}x{width} pixels; {spec.name} takes {spec.image_size}x{spec.image_size}, "
            "use another extractor"
        )


def _check_pair(samples: Tensor, reference: Tensor, spec: ExtractorSpec, at_least: int) -> None:
    """Both usable, of one resolution and channel count, and enough of each.

    Raises:
        InputError: otherwise.
    """
    _check_images("samples", samples, spec)
    _check_images("reference", reference, spec)
    if samples.shape[1:] != reference.shape[1:]:
        raise InputError(
            f"samples are {tuple(samples.shape[1:])}, the reference {tuple(reference.shape[1:])} (C, H, W); "
            "both must have one resolution and channel count"
        )
    for name, images in (("samples", samples), ("reference", reference)):
        if len(images) < at_least:
            raise InputError(f"{name}: {len(images)} images; the metrics need at least {at_least}")
