"""A network enters; the methods that DyDiT is compared with leave: pruned, merged, shallower or cached over steps.

Uses inference and the modules directly in dydit. A method is a module called as (x, t, y), like the network that it
was made of, and is named in text, such as `tome:0.2` (see registry.py).

Kept libraries were looked at first. torch-pruning rewires a module by its traced graph and leaves its configuration
behind, by which this project saves and loads. tomesd patches the U-Nets of two pipelines. cache-dit and the cache hooks
of diffusers change a network's modules in place, so that two methods could not share it, and do not reach the engine
that skips what masks close; the hooks serve the tests as an independent second implementation.
"""

from dydit.baselines.caching import BranchCache, ReusedBlocks
from dydit.baselines.depth import SkippedBlocks, remove_layers
from dydit.baselines.importance import CRITERIA, Calibration
from dydit.baselines.merging import MergingBlocks
from dydit.baselines.method import Method, Walk
from dydit.baselines.pruning import prune
from dydit.baselines.registry import METHODS, apply_method, change_network, changed_config, is_change, parse_method

__all__ = [
    "CRITERIA",
    "METHODS",
    "BranchCache",
    "Calibration",
    "MergingBlocks",
    "Method",
    "ReusedBlocks",
    "SkippedBlocks",
    "Walk",
    "apply_method",
    "change_network",
    "changed_config",
    "is_change",
    "parse_method",
    "prune",
    "remove_layers",
]
