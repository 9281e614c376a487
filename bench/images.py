"""Image sets from where they lie: ADM's .npz layout, or the digits by name."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import digits
from dydit.errors import InputError


def load(source: str | Path) -> Tensor:
    """Images as uint8 (N, C, H, W), C = 1 or 3.

    Args:
        source: `digits`, or a .npz file whose `arr_0` is uint8 (N, H, W, C), as the ADM evaluator reads it.

    Raises:
        InputError: no such file, a file that is not whole, or an array of another dtype or shape.
    """
    if str(source) == "digits":
        return digits.load().images
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path}: no such image file; give a .npz with arr_0, or the name digits")
    try:
        # Opened here: np.load leaves the file open when it is no archive.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            array = file["arr_0"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no whole .npz with an array arr_0 ({error}); write it again") from None
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
        raise InputError(f"{path}: arr_0 is {array.dtype} {array.shape}; it must be uint8 (N, H, W, 1 or 3)")
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()
