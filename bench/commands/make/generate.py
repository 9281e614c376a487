"""`python -m bench generate`: guided images of a checkpoint, by one process or by many under torchrun."""

from __future__ import annotations

from bench.generation.generate import generate_images
from bench.generation.job import GenerationOptions

OPTIONS = GenerationOptions


def run(options: GenerationOptions) -> None:
    """Draw the images."""
    path = generate_images(options)
    if path is not None:
        print(f"{options.images} images in {path}; the first of them in {path.with_name('preview.png')}")
