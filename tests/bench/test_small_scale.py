"""The digits study: deterministic training, kept files, committed checkpoints, sampling and verdicts."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cli, digits, digits_cnn, features, results, small_scale, small_scale_claims, studies
from bench.small_scale import Sampling, Variant
from bench.studies import CIFAR10, DIGITS, TrainingSet
from dydit import DiTConfig, DyDiT, InputError, checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = 300
TINY = {"input_size": 32, "patch_size": 8, "in_channels": 3, "hidden_size": 24, "depth": 2, "num_heads": 2}
"""A network on the images of CIFAR-10 that trains in a moment."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread_in_training() -> Iterator[None]:
    """Tiny models lose time to threads that wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_scale, "THREADS", 1)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    small_scale.train_all(DIGITS, directory, shorten=SHORT)
    return directory


def test_retraining_a_shortened_study_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the global generator must not matter
    small_scale.train_all(DIGITS, tmp_path, shorten=SHORT)
    names = sorted(path.name for path in trained.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (trained / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_second_training_keeps_finished_files_and_repairs_a_changed_one(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    victim = trained / "dydit-0.5.safetensors"
    content = victim.read_bytes()
    model, record = checkpoint.load_model(victim)
    checkpoint.write(victim, model, record | {"seed": "other"}, dtype=torch.float16)
    small_scale.train_all(DIGITS, trained, shorten=SHORT)
    assert victim.read_bytes() == content
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != victim)


@pytest.mark.parametrize("study", studies.STUDIES.values(), ids=studies.STUDIES)
@pytest.mark.parametrize("shorten", [1, 300, 10**9])
def test_stages_follow_the_recipe(study: studies.Study, shorten: int) -> None:
    by_name = {stage.name: stage for stage in study.stages(shorten)}
    control = by_name["dit-control"].recipe
    assert by_name["dit"].recipe.steps >= control.steps >= 1
    for target in study.lambdas:
        stage = by_name[f"dydit-{target}"]
        assert stage.parent == by_name["dit-control"].parent == "dit"
        assert stage.recipe.target == target
        same = ("steps", "batch_size", "seed", "learning_rate", "ema_decay", "flip")
        assert all(getattr(stage.recipe, name) == getattr(control, name) for name in same)
        assert 0 < stage.recipe.target_reached <= max(stage.recipe.steps // 2, 1)


def test_committed_checkpoints_say_how_they_were_made_and_are_small() -> None:
    files = sorted(small_scale.DIRECTORY.glob("*.safetensors"))
    names = {small_scale.CLASSIFIER, *(f"{stage.name}.safetensors" for stage in DIGITS.stages())}
    assert {path.name for path in files} == names
    assert sum(path.stat().st_size for path in files) < 8_000_000
    for path in files:
        record = checkpoint.read(path).record
        assert record["data_sha256"] == digits.checksum()
        assert record["seed"].isdigit()
        assert "small-scale" in record["command"]
        assert re.fullmatch(r"[0-9a-f]{40}( \(dirty\))?", record["commit"])


def test_committed_checkpoints_belong_to_the_stages_of_this_code() -> None:
    for stage in DIGITS.stages():
        path = small_scale.DIRECTORY / f"{stage.name}.safetensors"
        model, record = checkpoint.load_model(path)
        assert model.config == DIGITS.network
        assert isinstance(model, DyDiT) == (stage.recipe.target is not None)
        assert json.loads(record["recipe"]) == small_scale.recipe_record(stage.recipe)
        parent = small_scale.DIRECTORY / f"{stage.parent}.safetensors"
        assert record["parent_sha256"] == (features.file_sha256(parent) if stage.parent else "")


def test_the_committed_files_are_recognised_and_not_trained_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a committed file was trained again")

    monkeypatch.setattr(small_scale, "train", never)
    monkeypatch.setattr(digits_cnn, "train_digits_classifier", never)
    shutil.copytree(small_scale.DIRECTORY, tmp_path / "study")
    small_scale.train_all(DIGITS, tmp_path / "study")


def test_samples_do_not_depend_on_the_batch_size(trained: Path) -> None:
    variant = Variant("DyDiT", "dydit-0.5")
    one = small_scale.sample(variant, Sampling(images=7, steps=3, batch_size=7), trained)
    other = small_scale.sample(variant, Sampling(images=7, steps=3, batch_size=3), trained)
    assert torch.equal(one.labels, other.labels)
    assert (one.images.int() - other.images.int()).abs().max() <= 1
    assert one.flops_ratio == pytest.approx(other.flops_ratio, abs=1e-3)


@pytest.mark.parametrize("routing", ["random", "shuffled"])
def test_random_routing_keeps_the_rate_and_changes_the_images(routing: str) -> None:
    sampling = Sampling(images=16, steps=20)
    learned = small_scale.sample(Variant("DyDiT", "dydit-0.5"), sampling)
    random = small_scale.sample(Variant("DyDiT", "dydit-0.5", routing), sampling, rates=learned.rates)  # type: ignore[arg-type]
    assert random.flops_ratio == pytest.approx(learned.flops_ratio, abs=0.05)
    assert not torch.equal(learned.images, random.images)


def test_the_study_is_scored_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_scale_claims, "RESAMPLES", 5)
    study = small_scale_claims.run(Sampling(images=40, steps=4))
    table = small_scale_claims.quality_table(study)
    assert set(table["model"]) == {variant.name for variant in small_scale.variants()} | {
        "real digits, half against half"
    }
    named = table["metric"][table["metric"] != "FLOPs ratio"]
    assert named.str.endswith("[digits-cnn]").all()
    rows = small_scale_claims.claims(study, "smoke")
    assert len({row.claim_id for row in rows}) == len(rows) == 5 * len(small_scale.LAMBDAS)
    for row in rows:
        assert row.verdict in ("reproduced", "deviates")
        assert row.measured is not None and math.isfinite(row.measured)


def test_a_missing_checkpoint_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dit\.safetensors.*small_scale"):
        small_scale.load_stage("dit", tmp_path)


def test_the_record_of_a_recipe_names_younger_fields_where_they_are_in_use() -> None:
    assert not {"flip", "micro_batch"} & small_scale.recipe_record(DIGITS.static).keys()
    assert small_scale.recipe_record(CIFAR10.static)["flip"] is True
    whole = dataclasses.replace(CIFAR10.dynamic, micro_batch=32)
    assert small_scale.recipe_record(whole) == dataclasses.asdict(whole)


def test_cifar10_is_trained_by_the_papers_recipe() -> None:
    """AdamW 1e-4 and EMA 0.9999 are the defaults of a recipe; Table 7 gives size S 50k steps without warm-up."""
    for recipe in (CIFAR10.static, CIFAR10.control, CIFAR10.dynamic):
        assert (recipe.learning_rate, recipe.ema_decay, recipe.flip, recipe.complete_warmup) == (1e-4, 0.9999, True, 0)
    assert CIFAR10.dynamic.steps == CIFAR10.control.steps == 50_000
    assert CIFAR10.network.tokens == 256


def cifar_archive(directory: Path, per_batch: int = 3) -> Path:
    """The folder that CIFAR-10's own archive unpacks to, with a few random images in each batch."""
    folder = directory / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, size=(per_batch, 3072), dtype=np.uint8)
        batch = {b"data": pixels, b"labels": [int(label) for label in rng.integers(10, size=per_batch)]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=3))
    return directory


def tiny_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study with a small network and small batches."""
    recipes = {
        name: dataclasses.replace(getattr(CIFAR10, name), batch_size=4) for name in ("static", "control", "dynamic")
    }
    network = DiTConfig(**TINY, num_classes=10)
    monkeypatch.setitem(studies.STUDIES, "cifar10", dataclasses.replace(CIFAR10, network=network, **recipes))


def bench(*arguments: object) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(argument) for argument in arguments])
    assert exit_.value.code == 0


def test_cifar10_is_trained_generated_and_scored_by_the_commands(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    inception_weights: features.Weights,
) -> None:
    tiny_cifar10(monkeypatch)
    root, out, samples = cifar_archive(tmp_path / "data"), tmp_path / "study", tmp_path / "samples"
    train = ("small-scale", "--dataset", "cifar10", "--data-root", root, "--shorten", 100_000, "--out", out)
    bench(*train)
    assert "bench generate" in capsys.readouterr().out
    files = sorted(out.iterdir())
    assert [path.name for path in files] == [f"{stage.name}.safetensors" for stage in sorted_stages()]
    for path in files:
        model, record = checkpoint.load_model(path)
        assert (model.config.in_channels, model.pos_embed.dtype) == (3, torch.float32)
        assert record["data"] == "cifar10 train"
    times = [path.stat().st_mtime_ns for path in files]
    bench(*train)  # kept: data, recipes and parents are the same
    assert [path.stat().st_mtime_ns for path in files] == times

    bench("generate", "--checkpoint", out / "dydit-0.5.safetensors", "--images", 12, "--steps", 2, "--out", samples)
    with np.load(samples / "samples.npz") as file:
        assert file["arr_0"].shape == (12, 32, 32, 3)
        assert file["arr_1"].max() < 10
    weights = ("--weights", inception_weights.path, "--weights-sha256", inception_weights.sha256)
    scoring = ("--reference", "cifar10", "--data-root", root, "--extractor", "inception-v3-compat", *weights)
    bench("quality", "--samples", samples, *scoring, "--out", tmp_path / "scores")
    table = results.read_table(tmp_path / "scores", "quality").set_index("metric")
    fid = table.loc["FID[inception-v3-compat]"]
    assert (fid["n_samples"], fid["n_reference"]) == (12, 15)
    assert math.isfinite(float(fid["value"])) and float(fid["value"]) > 0


def sorted_stages() -> list[studies.Stage]:
    return sorted(CIFAR10.stages(), key=lambda stage: f"{stage.name}.safetensors")


def test_other_data_are_trained_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_cifar10(monkeypatch)
    study = studies.find("cifar10")
    first, second = cifar_archive(tmp_path / "a"), cifar_archive(tmp_path / "b", per_batch=4)
    small_scale.train_all(study, tmp_path / "out", 10**6, data_root=first)
    record = checkpoint.read(tmp_path / "out" / "dit.safetensors").record
    small_scale.train_all(study, tmp_path / "out", 10**6, data_root=second)
    other = checkpoint.read(tmp_path / "out" / "dit.safetensors").record
    assert other["data_sha256"] != record["data_sha256"]
    assert other["recipe"] == record["recipe"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks for a GPU")
def test_a_gpu_trains_files_that_any_machine_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_cifar10(monkeypatch)
    data = cifar_archive(tmp_path / "data")
    small_scale.train_all(studies.find("cifar10"), tmp_path / "out", 100_000, device="cuda", data_root=data)
    model, record = checkpoint.load_model(tmp_path / "out" / "dydit-0.5.safetensors")
    assert record["device"] == torch.cuda.get_device_name()
    assert model.pos_embed.device.type == "cpu"
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("shape", "label", "message"),
    [((8, 1, 8, 8), 3, r"images \(1, 8, 8\) of 4 classes"), ((8, 3, 32, 32), 10, "of 11 classes")],
)
def test_data_that_do_not_fit_the_network_are_refused(
    tmp_path: Path, shape: tuple[int, ...], label: int, message: str
) -> None:
    data = TrainingSet(torch.zeros(shape, dtype=torch.uint8), torch.full((8,), label), "other", "0")
    study = dataclasses.replace(CIFAR10, load=lambda _: data)
    with pytest.raises(InputError, match=message):
        small_scale.train_all(study, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "mnist"], "digits, cifar10"),
        (["--shorten", "0"], "whole number from 1"),
        (["--device", "tpu"], "use cpu or cuda"),
        (["--dataset", "cifar10", "--data-root", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_of_the_command_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["small-scale", *arguments, "--out", str(tmp_path / "out")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_training_leaves_threads_and_precision_as_they_were(trained: Path) -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    small_scale.train_all(DIGITS, trained, SHORT)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
