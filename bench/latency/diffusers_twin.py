"""The static DiT as diffusers runs it, with the same weights: what the suite's own baseline is timed against."""

from __future__ import annotations

from typing import Any

from dydit import DiT


def to_diffusers(model: DiT) -> Any:
    """A diffusers transformer with the weights of a static DiT, in evaluation mode.

    Each of its blocks holds a copy of the timestep and label embedders. Its frequencies divide by one less than the
    published code's (`downscale_freq_shift`); that is set back here. It needs an MLP ratio of 4.
    """
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    from dydit.checkpoint import layouts

    config = model.config
    twin = DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        num_layers=config.depth,
        sample_size=config.input_size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=config.num_classes,
        norm_eps=1e-6,
    )
    for block in twin.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    state = layouts.diffusers_keys(model.state_dict(), config.depth)
    twin.load_state_dict(state, strict=True)
    return twin.eval()
