"""torch-fidelity's DINOv2 extractors with weights from a file, for the FID called FD-DINOv2 (Stein et al. 2023).

torch-fidelity resizes and normalises the images, but gets its network with a download. Here the network is the vision
transformer of torchvision. It computes the same once the published weights are renamed, each LayerScale is multiplied
into the projection before it, and the positions are resized from 37 x 37 patches to the 16 x 16 of 224 pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.quality.features.layers import check_finite, read_state, torch_hub_file
from dydit import InputError
from dydit.checkpoint.atomic import atomic_path

LAYER = "dinov2"
"""torch-fidelity's name of the one layer, the normalised class token."""
PATCH = 14
GRID, TRAINED_GRID = 16, 37
"""Patches a side: of 224 pixels, and of the 518 that the published positions are of."""
_OFFSET = 0.1
"""Which the authors add to the new side, and which moves the resized positions a little."""
_BLOCK = {  # published -> torchvision's; both of a weight and of a bias
    "norm1": "ln_1",
    "attn.proj": "self_attention.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}


@dataclass(frozen=True)
class DinoKind:
    """One of the published networks: torch-fidelity's name, sizes, and the SHA-256 of its file."""

    name: str
    file_name: str
    width: int
    depth: int
    heads: int
    sha256: str

    @property
    def url(self) -> str:
        """Where the authors offer the weights."""
        return f"https://dl.fbaipublicfiles.com/dinov2/{self.file_name.removesuffix('_pretrain.pth')}/{self.file_name}"

    def cached_weights(self) -> Path:
        """Where torch hub keeps the published file when it is downloaded."""
        return torch_hub_file(self.file_name)

    def network(self) -> nn.Module:
        """torchvision's transformer of this size, (N, 3, 224, 224) to (N, width), on the meta device."""
        from torchvision.models import VisionTransformer

        with torch.device("meta"):
            model: nn.Module = VisionTransformer(
                image_size=GRID * PATCH,
                patch_size=PATCH,
                num_layers=self.depth,
                num_heads=self.heads,
                hidden_dim=self.width,
                mlp_dim=4 * self.width,
            )
            model.heads = nn.Identity()
        return model


KINDS = (
    DinoKind(
        "dinov2-vit-s-14", "dinov2_vits14_pretrain.pth", 384, 12, 6,
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    ),
    DinoKind(
        "dinov2-vit-b-14", "dinov2_vitb14_pretrain.pth", 768, 12, 12,
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
    DinoKind(
        "dinov2-vit-l-14", "dinov2_vitl14_pretrain.pth", 1024, 24, 16,
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
)  # fmt: skip


def load_network(kind: DinoKind, path: Path) -> nn.Module:
    """The network of a file in the published layout, in evaluation mode and without gradients.

    Raises:
        InputError: truncated, code instead of tensors, another network, or values that are not finite.
    """
    state = read_state(kind.name, path, kind.url)
    model = kind.network()
    try:
        model.load_state_dict(_renamed(kind, state), assign=True)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{kind.name}: {path} holds another network ({reason}); wanted is {kind.url}") from error
    check_finite(kind.name, path, state)
    return model.eval().requires_grad_(False)


def _renamed(kind: DinoKind, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of torchvision's network that computes what the published one does.

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: a tensor that does not fit, or one that the network has no place for.
    """
    left = {key: value for key, value in state.items() if key != "mask_token"}  # of the training alone
    renamed = {
        "class_token": left.pop("cls_token"),
        "encoder.pos_embedding": resize_positions(left.pop("pos_embed")),
    }
    for part in ("weight", "bias"):
        renamed[f"conv_proj.{part}"] = left.pop(f"patch_embed.proj.{part}")
        renamed[f"encoder.ln.{part}"] = left.pop(f"norm.{part}")
    for number in range(kind.depth):
        ours, theirs = f"encoder.layers.encoder_layer_{number}", f"blocks.{number}"
        for part in ("weight", "bias"):
            renamed[f"{ours}.self_attention.in_proj_{part}"] = left.pop(f"{theirs}.attn.qkv.{part}")
            for name, renamed_name in _BLOCK.items():
                renamed[f"{ours}.{renamed_name}.{part}"] = left.pop(f"{theirs}.{name}.{part}")
        for scale, projection in (("ls1", "self_attention.out_proj"), ("ls2", "mlp.3")):
            gamma = left.pop(f"{theirs}.{scale}.gamma")
            for part, factor in (("weight", gamma[:, None]), ("bias", gamma)):
                renamed[f"{ours}.{projection}.{part}"] = renamed[f"{ours}.{projection}.{part}"] * factor
    if left:
        raise RuntimeError(f"it has {len(left)} more tensors, {next(iter(left))} among them")
    return renamed


def resize_positions(positions: Tensor) -> Tensor:
    """Positions (1, 1 + 37 * 37, C) as (1, 1 + 16 * 16, C): that of the class token, and the patches' resized.

    Raises:
        RuntimeError: of another number of patches.
    """
    table = positions[:, 1:].reshape(1, TRAINED_GRID, TRAINED_GRID, -1).permute(0, 3, 1, 2)
    factor = (GRID + _OFFSET) / TRAINED_GRID
    table = F.interpolate(table, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([positions[:, :1], table.flatten(2).transpose(1, 2)], dim=1)


@functools.cache
def network_class(kind: DinoKind) -> type[nn.Module]:
    """The network as torch-fidelity wants it; defined on first use, because torch-fidelity is slow to import."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    class DinoFeatures(FeatureExtractorDinoV2):  # type: ignore[misc]  # torch-fidelity has no types
        """torch-fidelity's extractor, uint8 (N, 3, H, W) to (N, C) in float32, with a network that was in a file."""

        def __init__(
            self, name: str, features_list: list[str], feature_extractor_weights_path: str, **options: Any
        ) -> None:
            FeatureExtractorBase.__init__(self, name, features_list)  # its parent's would download
            self.feature_extractor_internal_dtype = torch.float32
            self.model = load_network(kind, Path(feature_extractor_weights_path))

        @staticmethod
        def can_be_compiled() -> bool:
            """Never: a compiled network rounds differently."""
            return False

    return DinoFeatures


def write_random_weights(kind: DinoKind, path: Path, seed: int = 0) -> None:
    """Write weights in the published layout drawn from a seed, for tests; metrics by them mean nothing.

    Products are drawn so that features keep their scale through all layers; scales and shifts are normal.
    """
    generator = torch.Generator().manual_seed(seed)
    width = kind.width
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + TRAINED_GRID**2, width),
        "mask_token": (1, width),
    }
    shapes |= {"patch_embed.proj.weight": (width, 3, PATCH, PATCH), "patch_embed.proj.bias": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    block: dict[str, tuple[int, ...]] = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    block |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width), "norm1": (width,), "norm2": (width,)}
    for number in range(kind.depth):
        for name, shape in block.items():
            shapes |= {f"blocks.{number}.{name}.weight": shape, f"blocks.{number}.{name}.bias": shape[:1]}
        shapes |= {f"blocks.{number}.{name}.gamma": (width,) for name in ("ls1", "ls2")}
    state = {
        key: torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5 for key, shape in shapes.items()
    }
    with atomic_path(path) as partial:
        torch.save(state, partial)
