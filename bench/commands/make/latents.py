"""`python -m bench latents`: a data set through the autoencoder once, for fine-tuning at 256 or 512 pixels."""

from __future__ import annotations

from bench.training.latents import LatentsOptions, encode_latents

OPTIONS = LatentsOptions


def run(options: LatentsOptions) -> None:
    """Encode the data set."""
    made, out = encode_latents(options), options.out
    print(f"{len(made)} latents in {out}; train with: python -m bench finetune --data {out} --from FILE")
