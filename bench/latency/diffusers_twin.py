"""The static DiT as diffusers runs it, with the same weights: what the suite's own baseline is timed against."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dydit import DiT


def to_diffusers(model: DiT) -> Any:
    """A diffusers transformer with the weights of a static DiT, in evaluation mode.

    Each of its blocks holds a copy of the timestep and label embedders. Its frequencies divide by one less than the
    published code's (`downscale_freq_shift`); that is set back here. It needs an MLP ratio of 4.
    """
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

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
    ours = model.state_dict()
    state: dict[str, Tensor] = {}

    def take(theirs: str, name: str) -> None:
        for kind in ("weight", "bias"):
            state[f"{theirs}.{kind}"] = ours[f"{name}.{kind}"]

    take("pos_embed.proj", "x_embedder.proj")
    take("proj_out_1", "final_layer.adaLN_modulation.1")
    take("proj_out_2", "final_layer.linear")
    for index, block in enumerate(twin.transformer_blocks):
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        here, there = f"blocks.{index}", f"transformer_blocks.{index}"
        take(f"{there}.norm1.emb.timestep_embedder.linear_1", "t_embedder.mlp.0")
        take(f"{there}.norm1.emb.timestep_embedder.linear_2", "t_embedder.mlp.2")
        labels = ours["y_embedder.embedding_table.weight"]
        state[f"{there}.norm1.emb.class_embedder.embedding_table.weight"] = labels
        take(f"{there}.norm1.linear", f"{here}.adaLN_modulation.1")
        for kind in ("weight", "bias"):
            parts = ours[f"{here}.attn.qkv.{kind}"].chunk(3)
            for name, part in zip(("to_q", "to_k", "to_v"), parts, strict=True):
                state[f"{there}.attn1.{name}.{kind}"] = part
        take(f"{there}.attn1.to_out.0", f"{here}.attn.proj")
        take(f"{there}.ff.net.0.proj", f"{here}.mlp.fc1")
        take(f"{there}.ff.net.2", f"{here}.mlp.fc2")
    twin.load_state_dict(state, strict=True)
    return twin.eval()
