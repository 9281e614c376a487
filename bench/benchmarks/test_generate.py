"""Timed: one unit of guided digits by each engine, from noise to bytes; `extra_info` holds images/s."""

from __future__ import annotations

from typing import Any

import pytest

from bench.data.shards import Manifest
from bench.generation.generate import make_unit
from bench.generation.job import GenerationOptions, prepare_generation, sampling_model
from bench.machine import arithmetic
from bench.studies.samples import committed_file

IMAGES, STEPS = 64, 10


@pytest.mark.parametrize(
    ("target", "engine"), [(None, "static"), (0.5, "masked"), (0.5, "realised")], ids=("static", "masked", "realised")
)
def test_generate_unit(benchmark: Any, target: float | None, engine: str) -> None:
    checkpoint = committed_file(target)
    options = GenerationOptions(checkpoint=str(checkpoint), images=IMAGES, steps=STEPS, engine=engine)
    job = prepare_generation(options)
    model = sampling_model(job, IMAGES)
    manifest = Manifest(IMAGES, IMAGES, job.decoder.shape, {}, {})
    benchmark.group = f"generation of {IMAGES} digits, {STEPS} guided DDPM steps"
    with arithmetic(options.threads, options.tf32):
        images, labels = benchmark.pedantic(make_unit, (job, model, manifest, 0), rounds=5, warmup_rounds=1)
    assert images.shape == (IMAGES, 8, 8, 1) and labels.shape == (IMAGES,)
    benchmark.extra_info.update(engine=engine, device="cpu", dtype="fp32", threads=options.threads)
    if not benchmark.disabled:
        benchmark.extra_info["images_per_s"] = IMAGES / benchmark.stats.stats.median
