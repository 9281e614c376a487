"""Reference implementation of Dynamic Diffusion Transformer (arXiv 2410.03456), one file a section of the paper."""

from dydit.config import MODEL_NAMES, DiTConfig, model_config
from dydit.dit import DiT
from dydit.dydit import DyDiT
from dydit.errors import InputError
from dydit.routing import Routing

__all__ = ["MODEL_NAMES", "DiT", "DiTConfig", "DyDiT", "InputError", "Routing", "model_config"]
