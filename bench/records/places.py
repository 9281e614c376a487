"""Where the files of the project lie: beside the packages in a checkout, inside of `bench` in an installed copy."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

PACKAGE = Path(str(importlib.resources.files("bench")))
"""The folder of `bench`."""
ROOT = PACKAGE.parent
"""The folder that holds the packages: of a checkout its root, of an installed copy Python's `site-packages`."""
_DATA = "reference_stats"


def installed() -> bool:
    """Whether this code was installed from a wheel; False in a checkout, a copy of one, and an editable install."""
    return (PACKAGE / _DATA).is_dir()


def shipped_data() -> Path:
    """The folder `reference_stats`, what measurements are compared with; to be read, and written in a checkout only."""
    return (PACKAGE if installed() else ROOT) / _DATA


def user_data() -> Path:
    """Where an installed copy keeps what it adds to the shipped data: `~/.local/share/dydit-bench` on Linux."""
    from platformdirs import user_data_path  # a bare machine, which times networks only, does without

    return user_data_path("dydit-bench", appauthor=False)
