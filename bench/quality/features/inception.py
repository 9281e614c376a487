"""torch-fidelity's InceptionV3 of 2015-12-05 with sFID's spatial layer, and its weights file, checked before use.

Spatial features are the ADM evaluator's: the first 7 channels of the first 1x1 branch of the seventh mixed block
(`mixed_6/conv` in TensorFlow's names, `Mixed_6d.branch1x1` here), after its ReLU, flattened with the channels last.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.quality.features.layers import (
    LOGITS,
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
SIDE = 299
"""Pixels of the pictures that the network sees."""
TO_SPATIAL = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"),
)
TO_POOLED = ("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool")
"""torch-fidelity's layers in their order, up to the spatial layer and from there to the pool features."""


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


class FoldedConvolution(nn.Module):
    """A convolution, the batch norm after it in its weights, and ReLU: (N, C, H, W) to (N, O, H', W').

    The products of the two are taken in float64 and rounded once, so that features move by rounding alone. On a CPU
    oneDNN computes ReLU in the same pass.

    Args:
        block: a convolution `conv` and a batch norm `bn` in evaluation mode.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        dtype = block.conv.weight.dtype
        folded: nn.Conv2d = fuse_conv_bn_eval(block.conv.double(), block.bn.double()).to(dtype)
        # channels_last is the layout of the fastest kernels, on a CPU and on a GPU.
        folded.requires_grad_(False).to(memory_format=torch.channels_last)
        self.convolution = folded

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the convolution."""
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return F.relu_(self.convolution(x))
        layer = self.convolution
        window = layer.padding, layer.stride, layer.dilation, layer.groups
        fused = torch.ops.mkldnn._convolution_pointwise
        return fused(x, layer.weight, layer.bias, *window, "relu", [], "")  # type: ignore[no-any-return]


def fold_batch_norms(network: nn.Module) -> None:
    """Put a `FoldedConvolution` in the place of every convolution with a batch norm and ReLU of torch-fidelity's."""
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    for parent in list(network.modules()):
        for name, block in list(parent.named_children()):
            if isinstance(block, BasicConv2d):
                setattr(parent, name, FoldedConvolution(block))


def scaled(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) as what the network sees: float32 (N, 3, 299, 299) in [-1, 1), up to rounding.

    Pictures are resized in the way of TensorFlow 1, where pixel i of 299 is sampled at i H / 299. With one more row
    and column on both sides of the ratio, that is what torch calls aligned corners: i ((H + 1) - 1) / (300 - 1). The
    row and column too many repeat the last ones.
    """
    x = F.pad(images.to(torch.float32), (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(SIDE + 1, SIDE + 1), mode="bilinear", align_corners=True)[..., :SIDE, :SIDE]
    return x.sub_(128).div_(128)


@functools.cache
def network_class() -> type[nn.Module]:
    """The network as torch-fidelity wants it; defined on first use, because torch-fidelity is slow to import."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class InceptionV3Spatial(LayerNames, FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity has no types
        """Pool features, logits and the spatial layer of uint8 (N, 3, H, W), all in one forward; float32.

        The layers and their order are torch-fidelity's. Their results differ by rounding: batch norms are folded into
        the convolutions, and pictures are resized in one pass.
        """

        POOLED = "2048"

        def __init__(self, name: str, features_list: list[str], **options: Any) -> None:
            super().__init__(name, features_list)
            self.inception = FeatureExtractorInceptionV3(NAME, [self.POOLED], **options)
            fold_batch_norms(self.inception)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            x = scaled(images).contiguous(memory_format=torch.channels_last)
            x = self._run(x, TO_SPATIAL)
            # The first of the branches that Mixed_6d joins is its 1x1 convolution.
            values = {SPATIAL: spatial_features(x)}
            if set(self.features_list) != {SPATIAL}:
                pooled = self._run(x, TO_POOLED).flatten(1)
                unbiased = pooled.mm(self.inception.fc.weight.T)
                values |= {self.POOLED: pooled, LOGITS: unbiased, "logits": unbiased + self.inception.fc.bias}
            return tuple(values[layer] for layer in self.features_list)

        def _run(self, x: Tensor, layers: Sequence[str]) -> Tensor:
            for layer in layers:
                x = getattr(self.inception, layer)(x)
            return x

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
