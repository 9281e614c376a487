"""The networks of the paper's Table 3 and the controls, by name.

Uses the modules of dydit itself alone.
"""

from dydit.ablations.networks import RandomRouting
from dydit.ablations.registry import ABLATIONS, Ablation, find_ablation

__all__ = ["ABLATIONS", "Ablation", "RandomRouting", "find_ablation"]
