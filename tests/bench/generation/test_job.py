"""Options of a run: what is refused in one line, before any work and with nothing written, and the command's own."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import cli
from bench.commands.make import generate
from bench.commands.measure.routing import RoutingOptions
from bench.generation.generate import generate_images
from bench.generation.job import (
    GenerationOptions,
    generation_identity,
    images_per_unit,
    prepare_generation,
    sampling_model,
)
from bench.generation.samplers import guided_samples
from bench.machine import devices
from bench.records import run_directory, take_directory
from bench.studies.samples import committed_file
from dydit import InputError

DYNAMIC = str(committed_file(0.5))
STATIC = str(committed_file())


def options(out: Path, **changes: Any) -> GenerationOptions:
    return GenerationOptions(**{"checkpoint": DYNAMIC, "out": out, "images": 20, "steps": 3, "unit": 8, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "--images 0: give a whole number from 1"),
        ({"unit": 0}, "--unit 0"),
        ({"unit": -3}, "--unit -3"),
        ({"threads": 0}, "--threads 0"),
        ({"steps": 0}, "--steps 0: give a whole number from 1 to 1,000"),
        ({"sampler": "ddim", "steps": 300}, "divisor"),
        ({"sampler": "euler"}, "ddpm, ddim, dpm-solver"),
        ({"scale": float("nan")}, "--scale nan"),
        ({"engine": "fast"}, "static, masked, realised"),
        ({"engine": "static"}, "holds a DyDiT, which runs as realised or masked"),
        ({"checkpoint": STATIC, "engine": "realised"}, "holds a DiT, which runs as static"),
        ({"dtype": "fp16"}, "fp32, bf16"),
        ({"device": "tpu"}, "cpu or cuda"),
        ({"tf32": True}, "a CPU has no TF32"),
        ({"checkpoint": "nowhere.safetensors"}, "no such checkpoint file"),
        ({"checkpoint": "dydit-xl-2-lambda-0.5"}, "cannot fetch .* give its path"),
        ({"checkpoint": "weights.pt"}, "no such checkpoint file"),
        ({"model": "DiT-S/2"}, "use --model DyDiT-S/2"),
        ({"model": "DyDiT-XXL/2"}, "unknown model"),
        ({"resolution": 512}, "--model"),
        ({"model": "DyDiT-S/2", "weights": "best"}, "ema or model"),
        ({"vae": "sd-vae-ft-ema"}, "pixels"),
        ({"method": "fora:0"}, "interval 0"),
        ({"method": "tome:0.5"}, "give a static DiT"),
        ({"checkpoint": STATIC, "method": "tome:0.9"}, "at most 12"),
        ({"method": "fora:2", "engine": "masked"}, "leave one out"),
        ({"checkpoint": ""}, "give a trained file, or --model"),
        ({"model": "package.module:factory"}, "in its place"),
        ({"checkpoint": "", "model": "nowhere.to_be:found"}, "cannot import"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        generate_images(options(tmp_path / "out", **changes))
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(InputError, match="no CUDA device"):
        options(Path("out"), device="cuda")


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(run_directory.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"writes 0\.1\d+ GiB, the disk has 0\.000977 GiB"):
        generate_images(options(tmp_path / "out", images=10**6, unit=10**4))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_does_not_fit_the_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_bytes", lambda _: 2**20)
    job = dataclasses.replace(prepare_generation(options(tmp_path)), device=torch.device("cuda"))
    with pytest.raises(InputError, match=r"DyDiT, batch 8: needs about .* the largest batch that fits|not even one"):
        sampling_model(job, 8)


@pytest.mark.parametrize(
    ("images", "unit", "earlier", "expected"),
    [
        (1000, None, None, 64),
        (20, None, None, 20),
        (20, None, 8, 8),
        (1000, None, 100, 100),
        (20, 5, 8, 5),
        (3, 5, None, 5),
    ],
)
def test_a_unit_is_that_of_the_options_or_of_the_earlier_run_or_64(
    images: int, unit: int | None, earlier: int | None, expected: int
) -> None:
    assert images_per_unit(options(Path("out"), images=images, unit=unit), earlier) == expected


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with take_directory(tmp_path, ()), pytest.raises(InputError, match="another run is writing"):
        generate_images(options(tmp_path))


def test_the_command_passes_every_option_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[GenerationOptions] = []
    monkeypatch.setattr(generate, "generate_images", seen.append)
    with pytest.raises(SystemExit):
        cli.main(["generate", "--checkpoint", "x.pt", "--images", "5", "--engine", "masked", "--out", str(tmp_path)])
    assert seen == [GenerationOptions(checkpoint="x.pt", out=tmp_path, images=5, engine="masked")]


def test_other_commands_describe_a_generation(tmp_path: Path) -> None:
    sampled = RoutingOptions(checkpoint="x.pt", out=tmp_path, steps=7, unit=3)
    wanted = GenerationOptions(checkpoint="x.pt", out=tmp_path, images=200, steps=7, unit=3)
    assert GenerationOptions.of(sampled) == wanted
    assert GenerationOptions.of(sampled, images=4) == dataclasses.replace(wanted, images=4)


def test_a_method_is_put_over_the_network_and_belongs_to_what_a_run_is(tmp_path: Path) -> None:
    small = {"checkpoint": STATIC, "images": 4, "unit": 2, "steps": 4, "seed": 3}
    jobs = {name: prepare_generation(options(tmp_path, method=name, **small)) for name in (None, "fora:1", "fora:2")}
    drawn = {}
    for name, job in jobs.items():
        model = sampling_model(job, 2)
        size = (job.solver, model, job.network.config)
        first, _ = guided_samples(*size, range(2), seed=3, scale=1.5, device=job.device)
        guided_samples(*size, range(2, 4), seed=3, scale=1.5, device=job.device)
        again, _ = guided_samples(*size, range(2), seed=3, scale=1.5, device=job.device)
        assert torch.equal(first, again)  # no state of one batch reaches another
        drawn[name] = first
    torch.testing.assert_close(drawn["fora:1"], drawn[None], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(drawn["fora:2"], drawn[None], rtol=1e-3, atol=1e-3)
    assert len({str(generation_identity(job)) for job in jobs.values()}) == 3
