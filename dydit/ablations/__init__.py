"""The networks of the paper's Table 3 and the controls, by name.

Uses only the modules directly in dydit.
"""

from dydit.ablations.networks import RandomRouting
from dydit.ablations.registry import ABLATIONS, Ablation, find_ablation

__all__ = ["ABLATIONS", "Ablation", "RandomRouting", "find_ablation"]
