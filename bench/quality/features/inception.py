"""torch-fidelity's InceptionV3 of 2015-12-05 with sFID's spatial layer, and its weights file, checked before use.

Spatial features are the ADM evaluator's: the first 7 channels of the first 1x1 branch of the seventh mixed block
(`mixed_6/conv` in TensorFlow's names, `Mixed_6d.branch1x1` here), after its ReLU, flattened with the channels last.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.quality.features.layers import (
    SPATIAL,
    LayerNames,
    check_finite,
    read_state,
    spatial_features,
    torch_hub_file,
)
from dydit import InputError
from dydit.checkpoint.atomic import atomic_path

NAME = "inception-v3-compat"
"""torch-fidelity's name of the network, and ours of the extractor."""
FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the published file; the file's name ends with its first 8 digits."""


def cached_weights() -> Path:
    """Where torch hub keeps the published file when it is downloaded."""
    return torch_hub_file(FILE_NAME)


def check_weights(path: Path) -> None:
    """Check an InceptionV3 weights file before torch-fidelity opens it, which would run code that is pickled in it.

    Raises:
        InputError: truncated, code instead of tensors, values that are not finite, or another network.
    """
    state = read_state(NAME, path, URL)
    shape = tuple(state["fc.weight"].shape) if "fc.weight" in state else None
    if shape != (1008, 2048):
        raise InputError(
            f"{NAME}: {path} has fc.weight {shape}, expected (1008, 2048); "
            "wanted is the 2015-12-05 InceptionV3 of torch-fidelity, not torchvision's"
        )
    check_finite(NAME, path, state)


def fold_batch_norms(network: nn.Module) -> None:
    """Put every batch norm into the convolution before it, in place, for a network in evaluation mode.

    The products are taken in float64 and rounded once; features move by rounding alone.
    """
    for block in network.modules():
        convolution, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            dtype = convolution.weight.dtype
            folded = fuse_conv_bn_eval(convolution.double(), norm.double())
            block.conv, block.bn = folded.to(dtype).requires_grad_(False), nn.Identity()


@functools.cache
def network_class() -> type[nn.Module]:
    """The network as torch-fidelity wants it; defined on first use, because torch-fidelity is slow to import."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class InceptionV3Spatial(LayerNames, FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        """Pool features, logits and the spatial layer of uint8 (N, 3, H, W), all in one forward; float32.

        Batch norms are folded into the convolutions, which makes features differ from torch-fidelity's by rounding.
        """

        POOLED = "2048"

        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            super().__init__(name, features_list)
            # "768" follows the spatial layer directly: where only that is asked for, the rest is not computed.
            inner = [layer for layer in features_list if layer != SPATIAL] or ["768"]
            self.inception = FeatureExtractorInceptionV3(NAME, inner, **options)
            fold_batch_norms(self.inception)
            self.inception.to(memory_format=torch.channels_last)  # the layout of the convolutions' fastest kernels
            self.spatial: Tensor | None = None
            if SPATIAL in features_list:
                self.inception.Mixed_6d.branch1x1.register_forward_hook(self._keep)

        def _keep(self, _module: nn.Module, _inputs: object, maps: Tensor) -> None:
            self.spatial = spatial_features(maps)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            values = self.inception.convert_features_tuple_to_dict(self.inception(images))
            values[SPATIAL], self.spatial = self.spatial, None
            return tuple(values[layer] for layer in self.features_list)

    return InceptionV3Spatial


def write_random_weights(path: Path, seed: int = 0) -> None:
    """Write weights of the right shapes drawn from a seed, for timing and tests without the published file.

    Convolutions are drawn so that features keep their scale through all layers (He et al. 2015). Metrics by such
    weights mean nothing.
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
