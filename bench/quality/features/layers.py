"""What the extractors have in common: layers with the same names, and weights files of tensors alone, without NaN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dydit import InputError

SPATIAL = "spatial"
"""Name of the spatial layer of every extractor."""
SPATIAL_CHANNELS = 7
LOGITS = "logits_unbiased"
"""Name of the layer of the Inception Score, which leaves out the last bias."""


class LayerNames:
    """The questions by which torch-fidelity asks a network for its layers; a base class before torch-fidelity's own.

    Attributes:
        POOLED: name of the layer of FID.
    """

    POOLED: ClassVar[str]

    @classmethod
    def get_provided_features_list(cls) -> tuple[str, ...]:
        """Every layer."""
        return cls.POOLED, SPATIAL, LOGITS, "logits"

    @classmethod
    def get_default_feature_layer_for_metric(cls, metric: str) -> str:
        """The layer of a metric by torch-fidelity's name of it."""
        return LOGITS if metric == "isc" else cls.POOLED

    @staticmethod
    def can_be_compiled() -> bool:
        """Never: a compiled network rounds differently."""
        return False


def spatial_features(maps: Tensor) -> Tensor:
    """First 7 channels of feature maps (N, C, H, W) as (N, H * W * 7), in the order of ADM's `mu_s`: H, W, C."""
    return maps[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def torch_hub_file(name: str) -> Path:
    """Where torch hub keeps a downloaded weights file; `TORCH_HOME` changes the place."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def read_state(extractor: str, path: Path, url: str) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU; code that is pickled in it does not run.

    Raises:
        InputError: truncated, or anything but tensors by name; `url` says where to get the file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the broken bytes provoke
        raise InputError(
            f"{extractor}: {path} is not a readable file of tensors alone; download {url} again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{extractor}: {path} does not hold tensors by name alone; download {url} again")
    return state


def check_finite(name: str, path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN or infinite values.

    Raises:
        InputError: extractor, file and tensor are named.
    """
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{name}: {path}: NaN or infinite values in {key}; get the file again")
