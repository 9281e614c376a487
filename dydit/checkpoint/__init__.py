"""Checkpoint files enter and leave, in the published layouts and in the project's own.

Uses ablations and the modules directly in dydit.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dydit.checkpoint.files import PUBLISHED, read_tensors
    from dydit.checkpoint.layouts import Checkpoint, read
    from dydit.checkpoint.network import Network, load_into, load_model, network_of
    from dydit.checkpoint.writing import write, write_diffusers, write_tensors

_WHERE = {
    "PUBLISHED": "files",
    "read_tensors": "files",
    "Checkpoint": "layouts",
    "read": "layouts",
    "Network": "network",
    "load_into": "network",
    "network_of": "network",
    "load_model": "network",
    "write": "writing",
    "write_diffusers": "writing",
    "write_tensors": "writing",
}

__all__ = [
    "PUBLISHED",
    "Checkpoint",
    "Network",
    "load_into",
    "load_model",
    "network_of",
    "read",
    "read_tensors",
    "write",
    "write_diffusers",
    "write_tensors",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `atomic` is used on machines that have no safetensors.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
