"""A DyDiT enters; a sampling model that skips what the masks close leaves.

Uses only the modules directly in dydit.
"""

from dydit.inference.cpu_kernels import freed_memory_is_kept, keep_freed_memory
from dydit.inference.cuda_graphs import GraphedForward
from dydit.inference.engine import Engine
from dydit.inference.products import adopt_products, arithmetic_of, takes_tf32, tuned_products
from dydit.inference.spans import span, watch_spans
from dydit.inference.weight_slices import MEMORY_SHARE
from dydit.inference.width_plan import WidthPlan, Widths

__all__ = [
    "MEMORY_SHARE",
    "Engine",
    "GraphedForward",
    "WidthPlan",
    "Widths",
    "adopt_products",
    "arithmetic_of",
    "freed_memory_is_kept",
    "keep_freed_memory",
    "span",
    "takes_tf32",
    "tuned_products",
    "watch_spans",
]
