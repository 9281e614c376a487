"""A DyDiT enters; a model that skips what its masks close leaves.

Uses the modules of dydit itself alone.
"""

from dydit.inference.cuda_graphs import GraphedForward
from dydit.inference.engine import Engine
from dydit.inference.spans import span, watched
from dydit.inference.weight_slices import MEMORY_SHARE
from dydit.inference.width_plan import WidthPlan, Widths

__all__ = ["MEMORY_SHARE", "Engine", "GraphedForward", "WidthPlan", "Widths", "span", "watched"]
