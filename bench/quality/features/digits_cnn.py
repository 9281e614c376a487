"""A small classifier of handwritten digits, the feature extractor `digits-cnn`: trained here, works offline."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data import preprocessing
from bench.machine import cpu_threads
from bench.quality.features.inception import SPATIAL, check_finite, spatial
from dydit import InputError, checkpoint

DIGITS_WEIGHTS = Path(__file__).resolve().parents[3] / "reference_stats" / "digits" / "digits_cnn.safetensors"
"""Where the repository keeps the trained `DigitsClassifier`."""
BATCH_SIZE = 64
"""Of the training."""
POOLED = 5
"""Modules of the body up to its pooling, where the spatial layer is taken."""


class DigitsClassifier(nn.Module):
    """Digits (N, 1, 8, 8) in [-1, 1] to features and logits; 122 k parameters.

    SiLU and average pooling keep the features smooth in the pixels, and there are no batch statistics: an image's
    features depend on that image alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),  # (N, 64, 4, 4)
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64),
            nn.SiLU(),
        )
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (N, 64)."""
        features: Tensor = self.body(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def train_digits_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    epochs: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> DigitsClassifier:
    """Train with AdamW under a one-cycle rate on images shifted by up to one pixel; returned in evaluation mode.

    The result is a function of (data, seed, epochs): one CPU thread sums in one order, and so small a network gains
    nothing from more. The global generator and thread count are left as they were.

    Args:
        images: uint8 (N, 1, 8, 8).
        labels: int64 (N,) in 0..9.
        seed: of the weights, the order and the shifts.
        epochs: passes over the data, about 0.2 s each on one core.
        progress: wraps the range of epochs, for a progress bar.

    Raises:
        InputError: no epoch, or images and labels that do not fit together.
    """
    if epochs < 1 or len(images) != len(labels) or len(images) < 1 or images.shape[1:] != (1, 8, 8):
        raise InputError(
            f"digits classifier: {epochs} epochs, images {tuple(images.shape)}, labels {tuple(labels.shape)}; "
            "it needs at least one epoch and (N, 1, 8, 8) images with N labels"
        )
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
        torch.manual_seed(seed)
        model = DigitsClassifier()
    generator = torch.Generator().manual_seed(seed)
    x = preprocessing.to_model(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * -(-len(x) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    with cpu_threads(1):
        for _ in progress(range(epochs)):
            for rows in torch.split(torch.randperm(len(x), generator=generator), BATCH_SIZE):
                loss = F.cross_entropy(model(_shift(x[rows], generator)), labels[rows])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
    return model.eval().requires_grad_(False)


def _shift(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixel along both axes; black (-1) comes in at the edge."""
    down, right = torch.randint(0, 3, (2, len(x)), generator=generator)
    windows = F.pad(x, (1, 1, 1, 1), value=-1.0).unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)
    return windows[torch.arange(len(x)), :, down, right]


def save_digits_classifier(model: DigitsClassifier, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the weights as safetensors with how they were made as metadata; the file appears whole or not at all."""
    checkpoint.write_tensors(path, model.state_dict(), metadata)


def load_digits_classifier(path: Path) -> DigitsClassifier:
    """Read weights written by `save_digits_classifier`, in evaluation mode and without gradients.

    Raises:
        InputError: the file is not a safetensors file of this network with finite values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with torch.device("meta"):  # no first weights are drawn, so the global generator stays untouched
        model = DigitsClassifier()
    try:
        state = load_file(path)
        model.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(" ".join(str(error).splitlines()[:2]).split())
        raise InputError(f"digits-cnn: {path} does not hold a DigitsClassifier ({reason}); train it again") from error
    check_finite("digits-cnn", path, state)
    return model.eval().requires_grad_(False)


@functools.cache
def network_class() -> type[nn.Module]:
    """The extractor as torch-fidelity takes it; made on first use, because torch-fidelity is imported late."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class DigitsCNN(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        """`DigitsClassifier` on uint8 (N, 3, 8, 8), read as grey by the mean of the channels.

        It computes and returns float64 throughout: torch-fidelity then takes its means in float64 as well, and batch
        size or thread count move a metric by rounding in the last digits only. The spatial layer mirrors InceptionV3's:
        the first 7 channels where both convolutions and the pooling are done, (N, 4 * 4 * 7), channels last.
        """

        def __init__(
            self, name: str, features_list: list[str], feature_extractor_weights_path: str, **options: Any
        ) -> None:
            super().__init__(name, features_list)
            self.classifier = load_digits_classifier(Path(feature_extractor_weights_path)).double()

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            grey = images.to(torch.float64).mean(dim=1, keepdim=True) / 127.5 - 1.0  # as digits.to_model
            maps = self.classifier.body[:POOLED](grey)  # (N, 64, 4, 4)
            features = self.classifier.body[POOLED:](maps)  # (N, 64)
            head = self.classifier.head
            unbiased = F.linear(features, head.weight)  # (N, 10): the Inception Score leaves the last bias out
            values = {
                "64": features,
                SPATIAL: spatial(maps),
                "logits_unbiased": unbiased,
                "logits": unbiased + head.bias,
            }
            return tuple(values[name] for name in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "64", SPATIAL, "logits_unbiased", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits_unbiased" if metric == "isc" else "64"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

    return DigitsCNN
