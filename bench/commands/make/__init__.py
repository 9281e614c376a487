"""Commands that make images, statistics, latents and trained models."""
