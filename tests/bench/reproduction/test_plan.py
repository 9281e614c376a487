"""Plans: work and disk by arithmetic, the rate by the run's own engine, every missing file named, nothing fetched."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import shards
from bench.generation.generate import generate_images
from bench.generation.job import GenerationOptions
from bench.reproduction import rate, requirements
from bench.reproduction.network import Network
from bench.reproduction.plan import PlanOptions, RunPlan, make_plan
from bench.reproduction.rate import sample_of
from bench.studies.samples import committed_file
from dydit import DyDiT, InputError, checkpoint, model_config
from dydit.ablations import find_ablation
from dydit.flops import MATMUL, macs, target_macs

pytestmark = pytest.mark.usefixtures("bare_machine")

DIGITS = str(committed_file(0.5))
XL = {"checkpoint": "dydit-xl-2-lambda-0.5", "model": "DyDiT-XL/2"}


def plan(samples: Path, **changes: Any) -> PlanOptions:
    """A short run of the digits, unless `changes` say otherwise."""
    return PlanOptions(**({"checkpoint": DIGITS, "samples": samples, "images": 10, "steps": 4} | changes))


def cell(made: RunPlan, quantity: str) -> float:
    return float(made.costs.set_index("quantity").loc[quantity, "value"])


def present(made: RunPlan) -> dict[str, bool]:
    return {need.name.split(" ")[0]: need.present for need in made.needs}


# Costs


@given(
    images=st.integers(1, 300),
    unit=st.integers(1, 70),
    devices=st.integers(1, 9),
    scale=st.sampled_from([1.0, 1.5]),
    rate=st.floats(0.01, 1000.0),
)
@settings(max_examples=30, deadline=None)
def test_time_work_and_disk_follow_from_the_options(
    images: int, unit: int, devices: int, scale: float, rate: float
) -> None:
    """The busiest device has the most units, each made whole; both guidance branches are network passes."""
    run = {"images": images, "unit": unit, "steps": 50, "scale": scale, "sampler": "ddim"}
    made = make_plan(plan(Path(), **XL, **run, gpus=[devices], rate=rate))
    units = -(-images // unit)
    dealt = [len(range(rank, units, devices)) for rank in range(devices)]
    name = f"time on {devices} device{'s' if devices > 1 else ''}"
    assert cell(made, name) == pytest.approx(max(dealt) * unit / rate / 3600)
    passes = 50 * (1 if scale == 1.0 else 2)
    assert cell(made, "network passes") == passes * units * unit
    per_pass = cell(made, "multiply-adds of a pass")
    assert cell(made, "multiply-adds of an image") == pytest.approx(per_pass * passes)
    assert cell(made, "multiply-adds") == pytest.approx(per_pass * passes * units * unit / 1e6)
    assert cell(made, "disk") * 2**30 == pytest.approx(2 * images * (256 * 256 * 3 + 8))


def test_disk_is_what_a_run_writes(tmp_path: Path) -> None:
    run = plan(tmp_path / "run", images=50, unit=20, steps=1, seed=3, rate=1.0)
    planned = cell(make_plan(run), "disk") * 2**30
    generate_images(run.generation())
    written = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.npz"))
    assert planned == 2 * 50 * (8 * 8 + 8)
    assert planned < written < planned + 1000 * (3 + 1)  # headers of the archives


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"engine": "masked"}, macs(model_config("DyDiT-XL/2"), dynamic=True).total(MATMUL)),
        ({"model": "DiT-XL/2", "checkpoint": "x.pt"}, macs(model_config("DiT-XL/2")).total(MATMUL)),
        (
            {"model": "DyDiT-S/2-cifar10", "checkpoint": "dydit.pt"},
            target_macs(model_config("DyDiT-S/2-cifar10"), 0.7),
        ),
    ],
)
def test_a_pass_costs_what_the_engine_executes(tmp_path: Path, changes: dict[str, str], expected: float) -> None:
    made = make_plan(plan(tmp_path, **(XL | changes), rate=1.0, target=0.7))
    assert cell(made, "multiply-adds of a pass") == pytest.approx(expected / 1e9)


def test_a_published_model_is_planned_at_its_printed_flops(tmp_path: Path) -> None:
    made = make_plan(plan(tmp_path, **XL, rate=1.0))
    # 57.88 as printed counts LayerNorm, too
    assert cell(made, "multiply-adds of a pass") == pytest.approx(57.88, abs=0.1)


def test_a_network_that_only_the_masked_engine_runs_is_planned_with_it(tmp_path: Path) -> None:
    config = checkpoint.load_model(DIGITS)[0].config
    path = tmp_path / "layer-skip-only.safetensors"
    checkpoint.write(path, find_ablation("layer-skip-only").build(config))
    made = make_plan(plan(tmp_path, checkpoint=str(path), rate=1.0))  # no --lambda is asked for
    whole = macs(config, dynamic=True).total(MATMUL)
    assert cell(made, "multiply-adds of a pass") == pytest.approx(whole / 1e9)


def test_units_of_a_plan_are_those_of_a_run(tmp_path: Path) -> None:
    for images, unit in ((5, None), (200, None), (200, 7)):
        run = plan(tmp_path / f"{images}-{unit}", images=images, unit=unit, steps=1, rate=1.0)
        generate_images(run.generation())
        made = make_plan(run)
        manifest = shards.read_manifest(run.samples)
        assert cell(made, "network passes") == manifest.units * manifest.unit * 2


# Rate


def test_trained_weights_are_timed_with_their_own_routing(tmp_path: Path) -> None:
    made = make_plan(plan(tmp_path, images=6, steps=40, gpus=[1]))
    assert "2 of 40 steps at batch 6, median of 1 round, the checkpoint's weights" in made.rate.basis
    assert set(made.rate.rounds_ms) == {"steps", "decoding"}
    steps, decoding = (made.rate.rounds_ms[name][0] for name in ("steps", "decoding"))
    assert made.rate.images_per_s == pytest.approx(6 / (steps * 40 / 2 + decoding) * 1e3)
    model, _ = checkpoint.load_model(DIGITS)
    whole = macs(model.config, dynamic=True).total(MATMUL) / 1e9
    assert 0.2 * whole < cell(made, "multiply-adds of a pass") < 0.9 * whole


def test_without_weights_the_network_is_timed_with_random_ones_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(rate, "prepare_generation", lambda *_: pytest.fail("there are no weights"))
    for name, engine, extra in (
        ("DyDiT-S/2-cifar10", None, ", synthetic routing"),
        ("DyDiT-S/2-cifar10", "masked", ", synthetic routing"),
        ("DiT-S/2-cifar10", None, ""),
    ):
        run = {"checkpoint": "absent.pt", "model": name, "engine": engine, "images": 1, "steps": 1}
        made = make_plan(plan(tmp_path, **run, target=0.5))
        assert made.rate.basis.endswith(f"random weights{extra}")
        assert made.rate.images_per_s > 0
        seen.append(made.rate.basis)
    assert not present(made)["checkpoint"]


def test_a_latent_model_without_autoencoder_is_timed_without_decoding(tmp_path: Path) -> None:
    made = make_plan(plan(tmp_path, checkpoint="absent.pt", model="DiT-S/8", images=1, steps=1))
    assert made.rate.basis.endswith("random weights, without decoding")
    assert present(made)["autoencoder"] is False


def test_a_rate_that_is_stated_asks_for_no_device(tmp_path: Path) -> None:
    run = plan(tmp_path, **XL, device="cuda", dtype="bf16", tf32=True, gpus=[1], rate=2.0)
    made = make_plan(run)
    assert (made.rate.basis, cell(made, "rate of one device")) == ("stated", 2.0)
    single = make_plan(dataclasses.replace(run, dtype="fp32"))
    assert cell(made, "memory of a device") == pytest.approx(cell(single, "memory of a device") / 2)
    assert not any("of memory" in need.name for need in made.needs)


@pytest.mark.parametrize(("scale", "expected"), [(1.5, (2, 15)), (1.0, (2, 30))])
def test_on_a_cpu_little_stands_for_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(rate, "CPU_WORK", 60 * macs(model_config("DiT-B/4")).total(MATMUL))
    network = Network("DiT-B/4", model_config("DiT-B/4"), False, "static", None)
    options = GenerationOptions(checkpoint="x", out=tmp_path, images=1000, scale=scale)
    assert sample_of(options, network) == expected
    monkeypatch.setattr(rate, "CPU_WORK", 1.0)
    assert sample_of(options, network) == (1, 1)


# What is there and what is missing


def on_hub(cache: Path, repository: str, *files: str) -> Path:
    """Files in the cache as the hub's library lays them out; the snapshot's folder."""
    home = cache / f"models--{repository.replace('/', '--')}"
    for file in files:
        path = home / "snapshots" / "abc" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text("abc")
    return home / "snapshots" / "abc"


def test_every_missing_file_is_listed_with_where_to_get_it(tmp_path: Path) -> None:
    made = make_plan(plan(tmp_path, **XL, reference="imagenet-256", data_root=tmp_path, rate=1.0))
    missing = {need.name: need for need in made.missing}
    assert list(missing) == [
        "checkpoint dydit-xl-2-lambda-0.5",
        "autoencoder sd-vae-ft-ema",
        "weights of inception-v3-compat",
        "reference imagenet-256",
    ]
    for need, source in zip(
        missing.values(),
        ("heisejiasuo/DyDiT", "stabilityai/sd-vae-ft-ema", "weights-inception-2015-12-05", "VIRTUAL_imagenet256"),
        strict=True,
    ):
        assert source in need.remedy
    assert str(tmp_path) in missing["weights of inception-v3-compat"].where


def test_files_that_are_there_are_found(tmp_path: Path, inception_weights: Any) -> None:
    file = checkpoint.PUBLISHED["dydit-xl-2-lambda-0.5"][1]
    released = on_hub(tmp_path / "hub", "heisejiasuo/DyDiT", file) / file
    vae = on_hub(tmp_path / "hub", "stabilityai/sd-vae-ft-ema", *requirements.VAE_FILES)
    (tmp_path / "VIRTUAL_imagenet256_labeled.npz").touch()
    scoring = {
        "reference": "imagenet-256",
        "extractor_weights": inception_weights.path,
        "weights_sha256": inception_weights.sha256,
        "data_root": tmp_path,
    }
    made = make_plan(plan(tmp_path, **XL, **scoring, rate=1.0))
    assert not made.missing
    where = {need.name: need.where for need in made.needs}
    assert where["checkpoint dydit-xl-2-lambda-0.5"] == str(released)
    assert where["autoencoder sd-vae-ft-ema"] == str(vae)


def test_half_an_autoencoder_is_none(tmp_path: Path) -> None:
    on_hub(tmp_path / "hub", "stabilityai/sd-vae-ft-ema", requirements.VAE_FILES[0])
    assert not requirements.autoencoder_requirement("sd-vae-ft-ema").present
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / requirements.VAE_FILES[0]).touch()
    found = requirements.autoencoder_requirement(str(tmp_path / "vae"))
    assert (
        not found.present
        and requirements.VAE_FILES[1] in found.remedy
        and requirements.VAE_FILES[0] not in found.remedy
    )
    (tmp_path / "vae" / requirements.VAE_FILES[1]).touch()
    assert requirements.autoencoder_requirement(str(tmp_path / "vae")).present


def test_extractor_weights_that_are_not_the_published_ones_are_as_good_as_missing(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"other")
    found = requirements.extractor_requirement("inception-v3-compat", other)
    assert not found.present and "SHA-256" in found.remedy


def test_data_sets_are_found_in_local_files(tmp_path: Path) -> None:
    assert requirements.reference_requirement("digits").present
    found = requirements.reference_requirement("cifar100/test", tmp_path)
    assert not found.present and "uoft-cs/cifar100" in found.remedy
    (tmp_path / "cifar-100-python").mkdir()
    assert requirements.reference_requirement("cifar100/test", tmp_path).where == str(tmp_path / "cifar-100-python")
    first = tmp_path / "food101" / "data" / "train-00000-of-00002.parquet"
    first.parent.mkdir(parents=True)
    first.touch()
    some = requirements.dataset_requirement("food101", tmp_path)
    assert not some.present and "1 of 2 parquet files" in some.remedy
    first.with_name("train-00001-of-00002.parquet").touch()
    assert requirements.dataset_requirement("food101", tmp_path).present
    with pytest.raises(InputError, match="no split 'all'; choose one of train, test"):
        requirements.reference_requirement("cifar10/all")
    assert "consent" in requirements.dataset_requirement("imagenet", tmp_path).remedy


def test_data_sets_are_found_in_the_cache_that_the_library_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    class Pictures(datasets.GeneratorBasedBuilder):
        BUILDER_CONFIGS = (datasets.BuilderConfig(name="default"),)

        def _info(self) -> datasets.DatasetInfo:
            return datasets.DatasetInfo(features=datasets.Features({"label": datasets.Value("int64")}))

        def _split_generators(self, _: Any) -> list[datasets.SplitGenerator]:
            return [datasets.SplitGenerator("train")]

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, int]]]:
            yield 0, {"label": 1}

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert not requirements.dataset_requirement("artbench10").present
    builder = Pictures(
        cache_dir=str(tmp_path / "cache"), dataset_name="ArtBench", repo_id="zguo0525/ArtBench", hash="abc"
    )
    builder.download_and_prepare()
    assert requirements.dataset_requirement("artbench10").present
    assert not requirements.dataset_requirement("artbench10", split="test").present


def test_a_disk_or_a_memory_that_is_too_small_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert requirements.disk_requirement(tmp_path / "not" / "yet", 1).present
    found = requirements.disk_requirement(tmp_path / "not" / "yet", 2**60)
    assert not found.present and found.where.startswith(str(tmp_path))
    monkeypatch.setattr(requirements, "free_bytes", lambda _: 100)
    cpu = torch.device("cpu")
    assert requirements.memory_requirement(cpu, 100).present and not requirements.memory_requirement(cpu, 101).present
    monkeypatch.setattr(requirements, "free_bytes", lambda _: None)
    assert requirements.memory_requirement(cpu, 101).present


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": [1, 0]}, "--gpus 0"),
        ({"rate": 0.0}, "rate 0.0"),
        ({"rate": float("nan")}, "rate nan"),
        ({"target": 1.5}, r"\(0, 1\]"),
        ({"dtype": "fp8"}, "fp32, bf16"),
        ({"images": 0}, "--images 0"),
        ({"steps": 3000}, "3000"),
        ({"sampler": "euler"}, "ddpm, ddim"),
        ({"engine": "static"}, "realised or masked"),
        ({"vae": "sd-vae-ft-ema"}, "leave it out"),
        ({"checkpoint": "x.pt"}, "give --model"),
        ({"checkpoint": "x.safetensors"}, "no such file"),
        ({"checkpoint": "x.pt", "model": "DyDiT-XL/2"}, "give --lambda"),
        ({"checkpoint": "x.pt", "model": "DiT-XL/3"}, "DiT-XL/2"),
        ({"reference": "imagenet-256"}, "256 pixels, the run makes 8"),
        ({"reference": "cifar10/train"}, "32 pixels, the run makes 8"),
        ({"reference": "digits", "extractor": "vgg"}, "unknown feature extractor"),
        ({**XL, "reference": "imagenet-256", "extractor": "digits-cnn"}, "takes 8x8"),
    ],
)
def test_what_would_stop_the_run_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_plan(plan(tmp_path, **({"rate": 1.0} | options)))
    assert len(str(caught.value).splitlines()) == 1


def test_a_network_that_only_its_file_names_needs_its_autoencoder_to_be_timed(tmp_path: Path) -> None:
    path = tmp_path / "latent.safetensors"
    config = {"input_size": 4, "patch_size": 2, "in_channels": 4, "hidden_size": 16, "depth": 1, "num_heads": 2}
    checkpoint.write(path, DyDiT(**config), {"recipe": json.dumps({"target": 0.5})})
    with pytest.raises(InputError, match="without its autoencoder"):
        make_plan(plan(tmp_path, checkpoint=str(path)))
    made = make_plan(plan(tmp_path, checkpoint=str(path), rate=1.0))
    assert cell(made, "disk") * 2**30 == 2 * 10 * (32 * 32 * 3 + 8)
