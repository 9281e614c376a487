"""The feature extractors that are trained in this project: small classifiers of handwritten digits and of clothes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data import preprocessing
from bench.machine import cpu_threads
from bench.quality.features.layers import LOGITS, SPATIAL, LayerNames, check_finite, spatial_features
from bench.records import shipped_data
from dydit import InputError, checkpoint

BATCH_SIZE = 64
"""Of the training."""
FEATURES, CLASSES = 64, 10


@dataclass(frozen=True)
class ClassifierKind:
    """One of the classifiers: what its images are, and where the project keeps its weights.

    Args:
        name: of the extractor.
        side: of its grey images, in pixels.
        map_side: of the feature maps, after all pooling.
        weights: the file with the trained `Classifier`.
        epochs: passes over the data in its training.
    """

    name: str
    side: int
    map_side: int
    weights: Path
    epochs: int


DIGITS = ClassifierKind("digits-cnn", 8, 4, shipped_data() / "digits" / "digits_cnn.safetensors", epochs=60)
FASHION = ClassifierKind("fashion-cnn", 32, 8, shipped_data() / "fashion" / "fashion_cnn.safetensors", epochs=12)


class Classifier(nn.Module):
    """Grey images (N, 1, S, S) in [-1, 1] to features and logits; 122 k parameters for digits, 319 k for clothes.

    SiLU and average pooling keep the features smooth in the pixels, and there are no batch statistics: an image's
    features depend on that image alone.
    """

    def __init__(self, kind: ClassifierKind) -> None:
        super().__init__()
        early = [nn.AvgPool2d(2)] if kind.side == 4 * kind.map_side else []
        until_maps = [
            nn.Conv2d(1, 32, 3, padding=1),
            nn.SiLU(),
            *early,
            nn.Conv2d(32, 64, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),  # (N, 64, map_side, map_side)
        ]
        self.up_to_maps = len(until_maps)
        self.body = nn.Sequential(
            *until_maps,
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * kind.map_side**2, FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (N, 64)."""
        features: Tensor = self.body(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def train_classifier(
    kind: ClassifierKind,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    epochs: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Classifier:
    """Train with AdamW under a one-cycle rate on images shifted by up to one pixel; returned in evaluation mode.

    The result is a function of (data, seed, epochs), because one CPU thread always sums in the same order; a network
    as small as this gains nothing from more threads. The global generator and thread count are left as they were.

    Args:
        kind: which classifier.
        images: uint8 (N, 1, S, S).
        labels: int64 (N,) in 0..9.
        seed: of the weights, the order and the shifts.
        epochs: passes over the data.
        progress: wraps the range of steps to show a progress bar.

    Raises:
        InputError: no epoch, or images and labels that do not fit together.
    """
    if epochs < 1 or len(images) != len(labels) or len(images) < 1 or images.shape[1:] != (1, kind.side, kind.side):
        raise InputError(
            f"{kind.name}: {epochs} epochs, images {tuple(images.shape)}, labels {tuple(labels.shape)}; "
            f"it needs at least one epoch and (N, 1, {kind.side}, {kind.side}) images with N labels"
        )
    with torch.random.fork_rng(devices=[]):  # layers draw their initial weights from the global generator
        torch.manual_seed(seed)
        model = Classifier(kind)
    generator = torch.Generator().manual_seed(seed)
    x = preprocessing.to_model(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * -(-len(x) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    batches = _batches(len(x), generator)
    with cpu_threads(1):
        for _ in progress(range(steps)):
            rows = next(batches)
            loss = F.cross_entropy(model(_shift(x[rows], generator)), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def _batches(images: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of one batch after another, every row once in each pass."""
    while True:
        yield from torch.split(torch.randperm(images, generator=generator), BATCH_SIZE)


def _shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel along both axes and filled up with black (-1)."""
    down, right = torch.randint(0, 3, (2, len(x)), generator=generator)
    windows = F.pad(x, (1, 1, 1, 1), value=-1.0).unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)
    return windows[torch.arange(len(x)), :, down, right]


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images uint8 (N, 1, S, S) that are given their label (N,)."""
    batches = zip(torch.split(images, 1000), torch.split(labels, 1000), strict=True)
    right = sum(int((model(preprocessing.to_model(x)).argmax(1) == y).sum()) for x, y in batches)
    return right / len(images)


def save_classifier(model: Classifier, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the weights as safetensors, with a record of their training as metadata; no half-written file is left."""
    checkpoint.write_tensors(path, model.state_dict(), metadata)


def load_classifier(kind: ClassifierKind, path: Path) -> Classifier:
    """Read weights written by `save_classifier`, in evaluation mode and without gradients.

    Raises:
        InputError: the file is not a safetensors file of this network with finite values.
    """
    with torch.device("meta"):  # draws no initial weights, so the global generator stays untouched
        model = Classifier(kind)
    try:
        state, _ = checkpoint.read_tensors(path)
        model.load_state_dict(state, assign=True)
    except (InputError, RuntimeError) as error:
        reason = " ".join(" ".join(str(error).splitlines()[:2]).split())
        raise InputError(f"{kind.name}: {path} does not hold its weights ({reason}); train them again") from error
    check_finite(kind.name, path, state)
    return model.eval().requires_grad_(False)


@functools.cache
def network_class(kind: ClassifierKind) -> type[nn.Module]:
    """The network as torch-fidelity wants it; defined on first use, because torch-fidelity is slow to import."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class ClassifierFeatures(LayerNames, FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        """`Classifier` on uint8 (N, 3, S, S), read as grey by the mean of the channels.

        It computes in float64 throughout: torch-fidelity then takes its means in float64 as well, and the batch size or
        the number of threads changes a metric only by rounding in the last digits. The spatial layer resembles that of
        InceptionV3: the first 7 channels after two convolutions and the pooling, (N, H * W * 7), channels last.
        """

        POOLED = str(FEATURES)

        def __init__(
            self, name: str, features_list: list[str], feature_extractor_weights_path: str, **options: Any
        ) -> None:
            super().__init__(name, features_list)
            self.classifier = load_classifier(kind, Path(feature_extractor_weights_path)).double()

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            classifier = self.classifier
            grey = images.to(torch.float64).mean(dim=1, keepdim=True) / 127.5 - 1.0  # as preprocessing.to_model
            maps = classifier.body[: classifier.up_to_maps](grey)
            features = classifier.body[classifier.up_to_maps :](maps)  # (N, 64)
            unbiased = F.linear(features, classifier.head.weight)  # (N, 10)
            values = {
                self.POOLED: features,
                SPATIAL: spatial_features(maps),
                LOGITS: unbiased,
                "logits": unbiased + classifier.head.bias,
            }
            return tuple(values[name] for name in self.features_list)

    return ClassifierFeatures
