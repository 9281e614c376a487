"""Generation: images that depend on model, seed and index alone, runs that grow and resume, and what is refused."""

from __future__ import annotations

import collections
import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.data import shards
from bench.data.sets import digits
from bench.generation import generate
from bench.generation.generate import generate_images, make_unit
from bench.generation.job import GenerationOptions
from bench.machine import devices
from bench.records import checksums
from bench.studies.samples import committed_file
from dydit import DiT, DyDiT, InputError, checkpoint
from dydit.config import DiTConfig
from dydit.inference import engine as engine_module
from dydit.inference import products
from dydit.inference.torch_blocks import TorchBlocks
from dydit.sampling import ImageNoise

pytestmark = pytest.mark.filterwarnings(
    # diffusers makes an array of a tensor, which NumPy 2 wants done with a copy keyword.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

DYNAMIC = str(committed_file(0.5))
STATIC = str(committed_file())
TINY = DiTConfig(input_size=4, patch_size=2, in_channels=1, hidden_size=16, depth=1, num_heads=2, num_classes=3)


def options(out: Path, **changes: Any) -> GenerationOptions:
    return GenerationOptions(**{"checkpoint": DYNAMIC, "out": out, "images": 20, "steps": 3, "unit": 8, **changes})


def run(wanted: GenerationOptions) -> tuple[np.ndarray, np.ndarray]:
    path = generate_images(wanted)
    assert path == wanted.out / "samples.npz"
    with np.load(path) as file:
        return file["arr_0"], file["arr_1"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[int]:
    """How often the network was called, by unit."""
    counted: collections.Counter[int] = collections.Counter()
    original = make_unit

    def counting(job: Any, model: Any, manifest: Any, unit: int, *rest: Any) -> Any:
        def network(x: Tensor, t: int, y: Tensor) -> Tensor:
            counted[unit] += 1
            assert len(x) == 2 * manifest.unit  # every batch is a whole unit, guided
            return model(x, t, y)

        return original(job, network, manifest, unit, *rest)

    monkeypatch.setattr(generate, "make_unit", counting)
    return counted


def tiny(path: Path, kind: type[DiT] = DiT, **changes: Any) -> str:
    """A file of this suite with a tiny random model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(**{**TINY.kwargs(), **changes})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    checkpoint.write(path, model)
    return str(path)


# The images


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++"])
@pytest.mark.parametrize(
    ("source", "engine"),
    [(DYNAMIC, "realised"), (DYNAMIC, "masked"), (STATIC, "static")],
    ids=["realised", "masked", "static"],
)
def test_every_sampler_and_engine_draws_the_digits_that_its_labels_ask_for(
    tmp_path: Path, sampler: str, source: str, engine: str
) -> None:
    images, labels = run(options(tmp_path, checkpoint=source, engine=engine, sampler=sampler, images=24, steps=10))
    assert images.shape == (24, 8, 8, 1) and images.dtype == np.uint8
    assert np.array_equal(labels, ImageNoise(0, range(24)).labels(10).numpy())
    real = digits.load_digits()
    apart = torch.cdist(torch.from_numpy(images).flatten(1).float(), real.images.flatten(1).float())
    assert np.mean(real.labels[apart.argmin(1)].numpy() == labels) >= 0.8  # of the nearest real digit; by chance 0.1


SHORT = {"images": 24, "steps": 10}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    return run(options(tmp_path_factory.mktemp("drawn"), **SHORT))


def within_bound(one: np.ndarray, other: np.ndarray) -> None:
    """The bound across unit sizes and engines: 97 % of the bytes equal, and all within 1 level but for one image.

    A router that decides at rounding's distance may tip over, which changes one image for good.
    """
    apart = np.abs(one.astype(int) - other).reshape(len(one), -1)
    assert np.mean(apart == 0) >= 0.97
    assert np.sum(apart.max(1) > 1) <= 1


def test_the_default_engine_is_the_fast_one_and_the_masked_one_agrees_with_it(tmp_path: Path, drawn: Any) -> None:
    realised, _ = run(options(tmp_path / "realised", engine="realised", **SHORT))
    masked, _ = run(options(tmp_path / "masked", engine="masked", **SHORT))
    assert np.array_equal(realised, drawn[0])
    within_bound(masked, drawn[0])


def test_an_ablation_that_the_engine_does_not_know_runs_masked(
    tmp_path: Path, drawn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DyDiT, "realised", False)
    images, _ = run(options(tmp_path, **SHORT))
    assert shards.read_manifest(tmp_path).identity["engine"] == "masked"
    within_bound(images, drawn[0])
    with pytest.raises(InputError, match="which runs as masked"):
        generate_images(options(tmp_path, engine="realised", **SHORT))


@pytest.mark.parametrize("unit", [1, 5, 24])
def test_the_unit_size_changes_rounding_alone(tmp_path: Path, drawn: Any, unit: int) -> None:
    images, labels = run(options(tmp_path, **SHORT, unit=unit))
    assert np.array_equal(labels, drawn[1])
    within_bound(images, drawn[0])


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, _ = run(options(tmp_path / "few", images=11))
    many, _ = run(options(tmp_path / "many", images=24))
    assert np.array_equal(few, many[:11])


def test_the_seed_and_the_scale_change_the_images(tmp_path: Path) -> None:
    one, _ = run(options(tmp_path / "one"))
    for name, changes in (("seed", {"seed": 1}), ("scale", {"scale": 3.0}), ("none", {"scale": 1.0})):
        other, _ = run(options(tmp_path / name, **changes))
        assert not np.array_equal(one, other)


def test_bf16_draws_nearly_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "check_device", lambda *_: None)  # slow here, not impossible
    one, _ = run(options(tmp_path / "fp32", sampler="ddim", steps=5))
    for engine in ("realised", "masked"):
        other, _ = run(options(tmp_path / engine, sampler="ddim", steps=5, dtype="bf16", engine=engine))
        assert not np.array_equal(one, other)
        assert np.abs(one.astype(int) - other).mean() < 8


# Interruptions


def test_a_finished_unit_is_never_made_again(
    tmp_path: Path, calls: collections.Counter[int], capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = run(options(tmp_path))
    assert calls == {0: 3, 1: 3, 2: 3}
    calls.clear()
    capsys.readouterr()
    again, _ = run(options(tmp_path))
    assert calls == {} and np.array_equal(again, images)
    assert "3 of 3 units are there, none to make" in capsys.readouterr().err

    shards.unit_path(tmp_path, 0).unlink()
    damaged = shards.unit_path(tmp_path, 1)
    damaged.write_bytes(damaged.read_bytes()[:-30])
    repaired, _ = run(options(tmp_path))
    assert calls == {0: 3, 1: 3} and np.array_equal(repaired, images)


def test_more_images_of_the_same_run_are_added_to_it(tmp_path: Path, calls: collections.Counter[int]) -> None:
    few, _ = run(options(tmp_path / "grown"))
    calls.clear()
    grown, labels = run(options(tmp_path / "grown", images=37))
    assert calls == {2: 3, 3: 3, 4: 3}  # unit 2 was shorter
    assert np.array_equal(grown[:20], few)
    fresh, same_labels = run(options(tmp_path / "fresh", images=37))
    assert np.array_equal(grown, fresh) and np.array_equal(labels, same_labels)
    assert shards.read_manifest(tmp_path / "grown").count == 37


def test_a_run_that_breaks_off_while_growing_leaves_no_old_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(options(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(generate, "make_unit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate_images(options(tmp_path, images=37))
    assert not (tmp_path / "samples.npz").exists()
    assert len(run(options(tmp_path, images=37))[0]) == 37


def test_the_kernels_that_a_run_was_begun_with_are_kept_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others round differently, and another process or another day may find others the fastest."""
    tiles = iter(products.TILES["bfloat16"])

    class Tunable(TorchBlocks):
        tunable = True

        @contextlib.contextmanager
        def tuning(self) -> Iterator[None]:
            products.choose_products(products.Shapes("bfloat16", 16, 128, 32), next(tiles))
            yield

    monkeypatch.setattr(products, "_tuned", {})
    monkeypatch.setattr(engine_module, "default_blocks", lambda _: Tunable())
    run(options(tmp_path))
    chosen, first = products.tuned_products(), dict(products._tuned)
    assert shards.read_manifest(tmp_path).identity["products"] == chosen != []
    products._tuned.clear()
    run(options(tmp_path, images=37))
    assert shards.read_manifest(tmp_path).identity["products"] == chosen and products._tuned == first
    run(options(tmp_path / "masked", engine="masked"))
    assert "products" not in shards.read_manifest(tmp_path / "masked").identity


@pytest.mark.parametrize(
    ("changes", "field", "old", "new"),
    [
        ({"seed": 5}, "seed", "0", "5"),
        ({"steps": 4}, "steps", "3", "4"),
        ({"scale": 2.0}, "scale", "1.5", "2.0"),
        ({"unit": 4}, "unit", "8", "4"),
        ({"threads": 2}, "threads", "1", "2"),
        ({"engine": "masked"}, "engine", "realised", "masked"),
        ({"sampler": "dpm-solver++"}, "sampler", "ddpm", "dpm-solver++"),
        ({"checkpoint": STATIC}, "model", "DyDiT", "DiT"),
        ({"checkpoint": DYNAMIC.replace("0.5", "0.7")}, "weights_sha256", "", ""),
        ({"images": 19}, "images", "20", "19"),
    ],
)
def test_another_run_is_not_mixed_in(
    tmp_path: Path, begun: Path, changes: dict[str, Any], field: str, old: str, new: str
) -> None:
    shutil.copytree(begun, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    with pytest.raises(InputError, match=rf"{field} = {old}.*, this one has {new}".replace("+", r"\+")) as caught:
        generate_images(options(tmp_path / "run", **changes))
    assert len(str(caught.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")} == before


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("begun")
    run(options(out))
    return out


def test_the_manifest_says_what_decides_the_images_and_who_made_them(begun: Path) -> None:
    found = shards.read_manifest(begun)
    model, _ = checkpoint.load_model(DYNAMIC)
    assert (found.count, found.unit, found.shape) == (20, 8, (8, 8, 1))
    assert found.identity["weights_sha256"] == checksums.tensors_sha256(model.state_dict())
    assert found.identity["config"] == model.config.kwargs()
    assert found.identity["decoding"] == "pixels" and found.identity["vae_sha256"] is None
    assert found.record["torch"]["threads"] == 1
    assert found.record["checkpoint"] == "./reference_stats/digits/dydit-m-0.5-s1.safetensors"


def test_the_digest_sees_names_dtypes_shapes_and_bytes() -> None:
    base = {"a": torch.arange(4.0), "b": torch.zeros(2, dtype=torch.bfloat16)}
    others = [
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"].view(2, 2), "b": base["b"]},
        {"a": base["a"], "b": base["b"].to(torch.float16)},
        {"a": base["a"] + 1, "b": base["b"]},
    ]
    digests = [checksums.tensors_sha256(state) for state in (base, *others)]
    assert len(set(digests)) == 5
    assert checksums.tensors_sha256(dict(reversed(base.items()))) == digests[0]
    assert checksums.tensors_sha256({**base, "a": torch.arange(8.0)[::2] / 2}) == digests[0]


def test_a_new_run_takes_units_of_64_or_fewer_and_a_resumed_one_keeps_its_own(tmp_path: Path) -> None:
    source = tiny(tmp_path / "model.safetensors")
    for images, unit in ((5, 5), (100, 64)):
        out = tmp_path / str(images)
        run(options(out, checkpoint=source, images=images, unit=None))
        assert shards.read_manifest(out).unit == unit
        run(options(out, checkpoint=source, images=120, unit=None))
        assert shards.read_manifest(out).unit == unit


def test_options_of_the_machine_are_restored_and_progress_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    run(options(tmp_path, threads=before[0] + 1, png=True))
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
    stdout, stderr = capsys.readouterr()
    assert (stdout, sum("minutes left" not in line for line in stderr.splitlines())) == ("", 2)  # missing, then made
    assert len(list((tmp_path / "png").iterdir())) == 20


# Checkpoints and decoders


def test_a_published_layout_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dydit.checkpoint.network.model_config", lambda name, resolution=None: TINY)
    models = {name: checkpoint.load_model(tiny(tmp_path / name / "m.safetensors"))[0] for name in ("ema", "model")}
    for parameter in models["model"].parameters():
        parameter.data *= 1.5
    path = tmp_path / "training.pt"
    torch.save({name: model.state_dict() for name, model in models.items()}, path)
    drawn = {}
    for name in models:
        out = tmp_path / "out" / name
        drawn[name], _ = run(options(out, checkpoint=str(path), model="DiT-S/2", weights=name))
        digest = checksums.tensors_sha256(models[name].state_dict())
        assert shards.read_manifest(out).identity["weights_sha256"] == digest
    assert not np.array_equal(drawn["ema"], drawn["model"])
    named, _ = run(options(tmp_path / "named", checkpoint=str(tmp_path / "ema" / "m.safetensors")))
    assert np.array_equal(named, drawn["ema"])
    with pytest.raises(InputError, match="no routers; use --model DiT-S/2"):
        generate_images(options(tmp_path / "refused", checkpoint=str(path), model="DyDiT-S/2"))


def test_latents_are_decoded_end_to_end(tmp_path: Path, save_vae: Callable[..., Path]) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(save_vae(tmp_path / "vae"))
    source = tiny(tmp_path / "m.safetensors", DyDiT, in_channels=4)
    images, _ = run(options(tmp_path / "out", checkpoint=source, vae=str(tmp_path / "vae")))
    assert images.shape == (20, 8, 8, 3)
    found = shards.read_manifest(tmp_path / "out")
    assert found.identity["vae_sha256"] == checksums.tensors_sha256(vae.state_dict())
    assert "0.18215" in found.identity["decoding"]
    with torch.no_grad():
        vae.decoder.conv_out.bias += 1
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="vae_sha256"):
        generate_images(options(tmp_path / "out", checkpoint=source, vae=str(tmp_path / "vae")))


# Models and directories that do not serve


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({"learn_sigma": False}, {}, "ddpm needs; use --sampler ddim"),
        ({"class_dropout_prob": 0.0}, {}, "null label"),
        ({"in_channels": 2}, {}, "2 channels"),
        ({"in_channels": 4}, {"vae": "nowhere"}, "no such directory"),
    ],
)
def test_a_model_that_cannot_be_sampled_so_is_refused(
    tmp_path: Path, config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    source = tiny(tmp_path / "model.safetensors", **config)
    with pytest.raises(InputError, match=message):
        generate_images(options(tmp_path / "out", checkpoint=source, **changes))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_without_variances_or_null_label_is_sampled_where_it_can_be(tmp_path: Path) -> None:
    source = tiny(tmp_path / "model.safetensors", learn_sigma=False, class_dropout_prob=0.0)
    images, _ = run(options(tmp_path / "out", checkpoint=source, sampler="ddim", steps=4, scale=1.0))
    assert len(images) == 20


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        generate_images(options(taken))
    run(options(tmp_path / "run"))
    (tmp_path / "run" / shards.MANIFEST).unlink()
    with pytest.raises(InputError, match=r"units without manifest\.json"):
        generate_images(options(tmp_path / "run"))


def test_a_model_that_diverges_is_told_and_writes_no_unit(tmp_path: Path) -> None:
    model, _ = checkpoint.load_model(tiny(tmp_path / "model.safetensors"))
    model.final_layer.linear.bias.data.fill_(3e38)  # finite, and infinite as soon as two of them are added
    checkpoint.write(tmp_path / "model.safetensors", model, {})
    with pytest.raises(InputError, match="NaN"):
        generate_images(options(tmp_path / "out", checkpoint=str(tmp_path / "model.safetensors")))
    assert not list((tmp_path / "out").glob("units/*"))
