"""The digits study: deterministic training, kept files, committed checkpoints, sampling and verdicts."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import cli
from bench.data import preprocessing
from bench.data.sets import digits
from bench.quality.features import classifiers, extractors
from bench.records import read_run, read_table
from bench.studies import run
from bench.studies.catalogue import (
    CIFAR10,
    CONTROL,
    DIGITS,
    SCRATCH,
    SEEDS,
    SIZES,
    STATIC,
    STUDIES,
    Stage,
    TrainingSet,
    find_study,
    stage_stem,
)
from bench.studies.samples import DIRECTORY, Sampling, Variant, compared_variants, draw_samples, load_stage
from bench.studies.train import CURVE_POINTS, StepOutcome, _curve, curves_table, evaluated, place_classifier, train_all
from dydit import DiTConfig, DyDiT, InputError, checkpoint
from dydit.ablations.networks import RandomRouting
from dydit.training import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

TRIAL = DIGITS.only(["dydit-m-random-0.5-s1", "dit-m-control-s1", "dydit-m-no-ordering-0.5-s2"]).shortened(300)
"""A part of the study in steps of a moment: a stage of every kind of parent, and one that waits for another's rates."""
TINY = {"input_size": 32, "patch_size": 8, "in_channels": 3, "hidden_size": 24, "depth": 2, "num_heads": 2}
"""A network on the images of CIFAR-10 that trains in a moment."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    assert train_all(TRIAL, directory) == len(TRIAL.stages) == 5
    return directory


def test_files_keep_the_course_of_their_training(trained: Path) -> None:
    curves = curves_table(TRIAL, trained).set_index("stage")
    control, random = curves.loc["dit-m-control-s1"], curves.loc["dydit-m-random-0.5-s1"]
    assert control["step"].tolist() == random["step"].tolist() == [1, 2, 3]  # 1000 // 300 steps, each of them a point
    assert (curves["loss"] > 0.05).all() and (control["ratio"] == 1).all() and random["ratio"].between(0.2, 1).all()
    long = [StepOutcome(float(step), 1.0, False) for step in range(81)]
    points = _curve(long)
    assert len(points) == CURVE_POINTS and points[0] == (2, 0.5, 1.0) and points[-1] == (81, 79.0, 1.0)


def test_a_plan_times_each_kind_of_network_once_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked: list[tuple[str, bool]] = []

    def seconds(stage: Stage, images: object, warmup: int, device: str) -> float:
        clocked.append((stage.name, warmup > 0))
        return 3.0 if warmup else 2.0

    monkeypatch.setattr(run, "_step_seconds", seconds)
    study = DIGITS.only(["dydit-m-0.5-s1", "dydit-m-0.7-s2", "dit-m-control-s1"])
    bench("small-scale", "--plan", "--stages", *(stage.name for stage in study.stages), "--out", tmp_path)
    assert clocked == [("dit-m", False), ("dydit-m-0.5-s1", False), ("dydit-m-0.5-s1", True)]
    table = read_table(tmp_path, "plan").set_index("stage")
    assert table.loc["dydit-m-0.5-s1", "hours"] == pytest.approx((150 * 3 + 850 * 2) / 3600)
    assert table.loc["all", "steps"] == 6000
    shared = table["hours"].drop("all").sum() / read_run(tmp_path)["processes"]
    one_after_the_other = table.loc["dit-m", "hours"] + table.loc["dydit-m-0.5-s1", "hours"]
    assert table.loc["all", "hours"] == pytest.approx(max(shared, one_after_the_other))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_seconds_of_a_step_are_those_of_real_training() -> None:
    study = TRIAL.only(["dydit-m-random-0.5-s1"])
    table = run.estimate_study(study, processes=1, device="cpu", data_root=None)
    assert table["stage"].tolist() == [*(stage.name for stage in study.stages), "all"]
    assert table["step_s"].iloc[:-1].between(1e-4, 60).all()


def test_two_processes_train_the_same_bytes_as_one(trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the global generator must not matter
    shutil.copy(trained / classifiers.DIGITS.weights.name, tmp_path)
    train_all(TRIAL, tmp_path, processes=2)
    names = sorted(path.name for path in trained.glob("*.safetensors"))
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (trained / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_second_training_keeps_finished_files_and_repairs_a_changed_one(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.glob("*.safetensors")}
    victim = trained / "dydit-m-random-0.5-s1.safetensors"
    content = victim.read_bytes()
    model, found = checkpoint.load_model(victim)
    record = found.record
    checkpoint.write(victim, model, record | {"seed": "other"}, dtype=torch.float16)
    assert train_all(TRIAL, trained) == 1
    assert victim.read_bytes() == content
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != victim)


def test_every_machine_scores_by_the_shipped_classifier(tmp_path: Path) -> None:
    path, data = tmp_path / "digits_cnn.safetensors", DIGITS.load(None)
    path.write_bytes(b"trained on another CPU")
    place_classifier(classifiers.DIGITS, path, data, {})
    assert path.read_bytes() == classifiers.DIGITS.weights.read_bytes()

    folder = tmp_path / "shipped"
    shutil.copytree(DIRECTORY, folder)
    changed = folder / path.name
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="restore the file"):
        place_classifier(dataclasses.replace(classifiers.DIGITS, weights=changed), path, data, {})


def test_the_random_control_meets_the_learned_rates(trained: Path) -> None:
    learned = checkpoint.load_model(trained / "dydit-m-0.5-s1.safetensors")[0]
    random = checkpoint.load_model(trained / "dydit-m-random-0.5-s1.safetensors")[0]
    data = digits.load_digits()
    routing = evaluated(learned, preprocessing.to_model(data.images), data.labels).routing
    assert routing is not None and isinstance(random, RandomRouting)
    assert random.random_rates.tolist() == pytest.approx(routing.rates, abs=1e-3)


def test_without_ordering_the_heads_stay_where_they_were(trained: Path) -> None:
    parent, kept, sorted_ = (
        checkpoint.read(trained / f"{name}.safetensors").state["blocks.0.attn.qkv.weight"].float()
        for name in ("dit-m", "dydit-m-no-ordering-0.5-s2", "dydit-m-0.5-s1")
    )
    assert torch.allclose(parent, kept, atol=0.01)  # three steps of training move little
    assert not torch.allclose(parent, sorted_, atol=0.01)


@pytest.mark.parametrize("shorten", [1, 300, 10**9])
def test_every_comparison_of_the_digits_is_a_fair_one(shorten: int) -> None:
    study = DIGITS.shortened(shorten)
    by_name = {stage.name: stage for stage in study.stages}
    names = [stage.name for stage in study.stages]
    assert len(set(names)) == len(names)
    for place, stage in enumerate(study.stages):
        assert all(names.index(need) < place for need in stage.needs)
        assert stage.recipe.steps >= 1 and stage.network == SIZES[stage.size]
        if stage.run in (STATIC, SCRATCH):
            assert stage.parent is None
            continue
        control = by_name[stage_stem(stage.size, CONTROL, None, stage.recipe.seed)]
        assert stage.parent == control.parent == f"dit-{stage.size}"
        same = ("steps", "batch_size", "seed", "learning_rate", "ema_decay", "flip")
        assert all(getattr(stage.recipe, name) == getattr(control.recipe, name) for name in same)
    seeds = {(stage.size, stage.run, stage.recipe.target): set[int]() for stage in study.stages if stage.parent}
    for stage in study.stages:
        if stage.parent:
            seeds[stage.size, stage.run, stage.recipe.target].add(stage.recipe.seed)
    assert set(map(frozenset, seeds.values())) == {frozenset(SEEDS)}


def test_a_model_trained_from_nothing_makes_as_many_steps_as_static_and_fine_tuned_together() -> None:
    steps = {stage.name: stage.recipe.steps for stage in DIGITS.stages}
    assert steps["dydit-m-from-scratch-0.5-s1"] == steps["dit-m"] + steps["dydit-m-0.5-s1"]


def test_cifar10_is_trained_by_one_schedule() -> None:
    by_name = {stage.name: stage for stage in CIFAR10.stages}
    control = by_name["dit-control"]
    for target in (0.7, 0.5):
        stage = by_name[f"dydit-{target}"]
        assert stage.parent == control.parent == "dit" and stage.recipe.target == target
        same = ("steps", "batch_size", "seed", "learning_rate", "ema_decay", "flip")
        assert all(getattr(stage.recipe, name) == getattr(control.recipe, name) for name in same)


def test_an_unknown_stage_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"dydit-m-0\.5-s1"):
        DIGITS.only(["dydit-m-0.5-s9"])


COMMITTED = [variant.stage for variant in compared_variants() if variant.routing == "learned"]


def test_committed_checkpoints_say_how_they_were_made_and_are_small() -> None:
    files = sorted(DIRECTORY.glob("*.safetensors"))
    assert {path.stem for path in files} == {*COMMITTED, classifiers.DIGITS.weights.stem}
    assert sum(path.stat().st_size for path in files) < 8_000_000
    for path in files:
        record = checkpoint.read(path).record
        assert record["data_sha256"] == digits.checksum()
        assert record["seed"].isdigit()
        assert "small-scale" in record["command"]
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_checkpoints_belong_to_the_stages_of_this_code(name: str) -> None:
    (stage,) = (stage for stage in DIGITS.stages if stage.name == name)
    model, found = checkpoint.load_model(DIRECTORY / f"{name}.safetensors")
    record = found.record
    assert model.config == stage.network
    assert isinstance(model, DyDiT) == (stage.recipe.target is not None)
    assert Recipe(**json.loads(record["recipe"])) == stage.recipe


def test_the_committed_files_are_recognised_and_not_trained_again(tmp_path: Path) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "study")
    assert train_all(DIGITS.only(COMMITTED), tmp_path / "study") == 0


def test_samples_do_not_depend_on_the_batch_size(trained: Path) -> None:
    variant = Variant("DyDiT", "dydit-m-0.5-s1")
    one = draw_samples(variant, Sampling(images=7, steps=3, batch_size=7), trained)
    other = draw_samples(variant, Sampling(images=7, steps=3, batch_size=3), trained)
    assert torch.equal(one.labels, other.labels)
    assert (one.images.int() - other.images.int()).abs().max() <= 1
    assert one.flops_ratios is not None and other.flops_ratios is not None
    assert one.flops_ratios.shape == (7,) and one.flops_ratio == pytest.approx(one.flops_ratios.mean().item())
    torch.testing.assert_close(one.flops_ratios, other.flops_ratios, rtol=0, atol=1e-3)


@pytest.mark.parametrize("routing", ["random", "shuffled"])
def test_random_routing_keeps_the_rate_and_changes_the_images(routing: str) -> None:
    sampling = Sampling(images=16, steps=20)
    learned = draw_samples(Variant("DyDiT", "dydit-m-0.5-s1"), sampling)
    random = draw_samples(Variant("DyDiT", "dydit-m-0.5-s1", routing), sampling, rates=learned.rates)  # type: ignore[arg-type]
    assert random.flops_ratio == pytest.approx(learned.flops_ratio, abs=0.05)
    assert not torch.equal(learned.images, random.images)


def test_a_missing_checkpoint_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dit-m\.safetensors.*small_scale"):
        load_stage("dit-m", tmp_path)


def test_cifar10_is_trained_by_the_papers_recipe() -> None:
    """AdamW 1e-4 and EMA 0.9999 are the defaults of a recipe; Table 7 gives size S 50k steps without warm-up."""
    for stage in CIFAR10.stages:
        recipe = stage.recipe
        assert (recipe.learning_rate, recipe.ema_decay, recipe.flip, recipe.complete_warmup) == (1e-4, 0.9999, True, 0)
        assert recipe.steps == (50_000 if stage.parent else 400_000)
        assert stage.network.tokens == 256


def cifar_folders(directory: Path, count: int = 15) -> Path:
    """A few random images as a copy of CIFAR-10 with one folder per class."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = directory / "train" / f"{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return directory


def tiny_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study with a small network and small batches."""
    network = DiTConfig(**TINY, num_classes=10)
    stages = tuple(
        dataclasses.replace(stage, network=network, recipe=dataclasses.replace(stage.recipe, batch_size=4))
        for stage in CIFAR10.stages
    )
    monkeypatch.setitem(STUDIES, "cifar10", dataclasses.replace(CIFAR10, stages=stages))


def bench(*arguments: object) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(argument) for argument in arguments])
    assert exit_.value.code == 0


def test_cifar10_is_trained_generated_and_scored_by_the_commands(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    inception_weights: extractors.Weights,
) -> None:
    tiny_cifar10(monkeypatch)
    root, out, samples = cifar_folders(tmp_path / "data"), tmp_path / "study", tmp_path / "samples"
    models = ("--processes", 1, "--models", out, "--out", tmp_path / "tables")
    train = ("small-scale", "--dataset", "cifar10", "--data-root", root, "--shorten", 100_000, *models)
    bench(*train)
    assert "bench generate" in capsys.readouterr().out
    files = sorted(out.iterdir())
    assert [path.name for path in files] == [f"{stage.name}.safetensors" for stage in sorted_stages()]
    for path in files:
        model, found = checkpoint.load_model(path)
        record = found.record
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
    table = read_table(tmp_path / "scores", "quality").set_index("metric")
    fid = table.loc["FID[inception-v3-compat]"]
    assert (fid["n_samples"], fid["n_reference"]) == (12, 15)
    assert math.isfinite(float(fid["value"])) and float(fid["value"]) > 0


def sorted_stages() -> list[Stage]:
    return sorted(CIFAR10.stages, key=lambda stage: f"{stage.name}.safetensors")


def test_other_data_are_trained_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_cifar10(monkeypatch)
    study = find_study("cifar10")
    first, second = cifar_folders(tmp_path / "a"), cifar_folders(tmp_path / "b", count=20)
    train_all(study.shortened(10**6), tmp_path / "out", data_root=first)
    record = checkpoint.read(tmp_path / "out" / "dit.safetensors").record
    train_all(study.shortened(10**6), tmp_path / "out", data_root=second)
    other = checkpoint.read(tmp_path / "out" / "dit.safetensors").record
    assert other["data_sha256"] != record["data_sha256"]
    assert other["recipe"] == record["recipe"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks for a GPU")
def test_a_gpu_trains_files_that_any_machine_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_cifar10(monkeypatch)
    data = cifar_folders(tmp_path / "data")
    study = find_study("cifar10").shortened(100_000)
    train_all(study, tmp_path / "out", device="cuda", data_root=data)
    model, found = checkpoint.load_model(tmp_path / "out" / "dydit-0.5.safetensors")
    record = found.record
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
        train_all(study, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "mnist"], "digits, cifar10"),
        (["--shorten", "0"], "whole number from 1"),
        (["--processes", "0"], "whole number from 1"),
        (["--stages", "dydit-m-0.55-s1"], "nearest names: dydit-m-0.5-s1"),
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
    train_all(TRIAL, trained)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before
