"""Reference implementation of Dynamic Diffusion Transformer (arXiv 2410.03456), one file per section of the paper."""

from dydit.config import (
    MODEL_NAMES,
    PAPER_LAMBDAS,
    PATCH_SIZES,
    PIXEL_MODEL_NAMES,
    VAE_DOWNSAMPLING,
    DiTConfig,
    check_lambda,
    model_config,
)
from dydit.diffusion import Diffusion, Model, Sampler
from dydit.dit import DiT
from dydit.dydit import DyDiT, is_router_key, routers
from dydit.errors import InputError, first_line, nearest
from dydit.flops import CONVENTIONS, Convention, Macs, flops_ratio, macs
from dydit.importance import order_by_importance
from dydit.observation import Observation, ObservedSampling
from dydit.routing import Routing
from dydit.sampling import check_scale, draw, draw_in_batches, generate, guidance_branches, guided

__all__ = [
    "CONVENTIONS",
    "MODEL_NAMES",
    "PAPER_LAMBDAS",
    "PATCH_SIZES",
    "PIXEL_MODEL_NAMES",
    "VAE_DOWNSAMPLING",
    "Convention",
    "DiT",
    "DiTConfig",
    "Diffusion",
    "DyDiT",
    "InputError",
    "Macs",
    "Model",
    "Observation",
    "ObservedSampling",
    "Routing",
    "Sampler",
    "check_lambda",
    "check_scale",
    "draw",
    "draw_in_batches",
    "first_line",
    "flops_ratio",
    "generate",
    "guidance_branches",
    "guided",
    "is_router_key",
    "macs",
    "model_config",
    "nearest",
    "order_by_importance",
    "routers",
]
