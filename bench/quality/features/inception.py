"""torch-fidelity's InceptionV3 of 2015-12-05 with sFID's spatial layer, and its weights file, checked before use.

Spatial features are the ADM evaluator's: the first 7 channels of the first 1x1 branch of the seventh mixed block
(`mixed_6/conv` in TensorFlow's names, `Mixed_6d.branch1x1` here), after its ReLU, flattened with the channels last.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dydit import InputError
from dydit.checkpoint.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping


NAME = "inception-v3-compat"
"""torch-fidelity's name of the network, and ours of the extractor."""
FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the published file; its first 8 digits stand in the file's name."""
SPATIAL = "spatial"
"""Name of the spatial layer of every extractor."""
SPATIAL_CHANNELS = 7


def spatial(maps: Tensor) -> Tensor:
    """First 7 channels of feature maps (N, C, H, W) as (N, H * W * 7), in the order of ADM's `mu_s`: H, W, C."""
    return maps[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def cached_weights() -> Path:
    """Where torch hub keeps the published file once it was downloaded; `TORCH_HOME` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME


def check_weights(path: Path) -> None:
    """Look at an InceptionV3 weights file before torch-fidelity does, which would run code pickled in it.

    Raises:
        InputError: truncated, code instead of tensors, values that are not finite, or another network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken bytes provoke
        raise InputError(f"{NAME}: {path} is not a readable file of tensors alone; download {URL} again") from error
    shape = tuple(state["fc.weight"].shape) if isinstance(state, dict) and "fc.weight" in state else None
    if shape != (1008, 2048):
        raise InputError(
            f"{NAME}: {path} has fc.weight {shape}, expected (1008, 2048); "
            "wanted is the 2015-12-05 InceptionV3 of torch-fidelity, not torchvision's"
        )
    check_finite(NAME, path, state)


def check_finite(name: str, path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN or infinite values.

    Raises:
        InputError: extractor, file and tensor named.
    """
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{name}: {path}: NaN or infinite values in {key}; get the file again")


@functools.cache
def network_class() -> type[nn.Module]:
    """The extractor as torch-fidelity takes it; made on first use, because torch-fidelity is imported late."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class InceptionV3Spatial(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        """Pool features, logits and the spatial layer of uint8 (N, 3, H, W), all in one forward; float32."""

        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            super().__init__(name, features_list)
            # "768" lies just behind the spatial layer: where that alone is asked for, the rest is not computed.
            inner = [layer for layer in features_list if layer != SPATIAL] or ["768"]
            self.inception = FeatureExtractorInceptionV3(NAME, inner, **options)
            self.spatial: Tensor | None = None
            if SPATIAL in features_list:
                self.inception.Mixed_6d.branch1x1.register_forward_hook(self._keep)

        def _keep(self, _module: nn.Module, _inputs: object, maps: Tensor) -> None:
            self.spatial = spatial(maps)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            values = self.inception.convert_features_tuple_to_dict(self.inception(images))
            values[SPATIAL], self.spatial = self.spatial, None
            return tuple(values[layer] for layer in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "2048", SPATIAL, "logits_unbiased", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits_unbiased" if metric == "isc" else "2048"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

    return InceptionV3Spatial


def write_random_weights(path: Path, seed: int = 0) -> None:
    """Weights of the right shapes drawn from a seed, for timing and tests where the published file is not at hand.

    Convolutions are drawn so that the scale of the features survives the depth (He et al. 2015); the metrics that come
    of it mean nothing.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]  # torch-fidelity has no types
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keep what the layers were drawn with."""

    with atomic_path(path) as partial, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save({}, partial)
        network = Untrained(NAME, ["2048"], feature_extractor_weights_path=str(partial))
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        torch.save(network.state_dict(), partial)
