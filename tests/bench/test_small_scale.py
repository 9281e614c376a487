"""The digits study: deterministic training, kept files, committed checkpoints, sampling and verdicts."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch

from bench import digits, features, small_scale, small_scale_claims
from bench.small_scale import Sampling, Variant
from dydit import DyDiT, InputError, checkpoint

SHORT = 300


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("study")
    small_scale.train_all(directory, shorten=SHORT)
    return directory


def test_retraining_a_shortened_study_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the global generator must not matter
    small_scale.train_all(tmp_path, shorten=SHORT)
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
    small_scale.train_all(trained, shorten=SHORT)
    assert victim.read_bytes() == content
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != victim)


def test_stages_follow_the_recipe() -> None:
    by_name = {stage.name: stage for stage in small_scale.stages()}
    control = by_name["dit-control"].recipe
    for target in small_scale.LAMBDAS:
        stage = by_name[f"dydit-{target}"]
        assert stage.parent == by_name["dit-control"].parent == "dit"
        assert stage.recipe.target == target
        same = ("steps", "batch_size", "seed", "learning_rate", "ema_decay")
        assert all(getattr(stage.recipe, name) == getattr(control, name) for name in same)
        assert 0 < stage.recipe.target_reached <= stage.recipe.steps // 2


def test_committed_checkpoints_say_how_they_were_made_and_are_small() -> None:
    files = sorted(small_scale.DIRECTORY.glob("*.safetensors"))
    names = {small_scale.CLASSIFIER, *(f"{stage.name}.safetensors" for stage in small_scale.stages())}
    assert {path.name for path in files} == names
    assert sum(path.stat().st_size for path in files) < 8_000_000
    for path in files:
        record = checkpoint.read(path).record
        assert record["data_sha256"] == digits.checksum()
        assert record["seed"].isdigit()
        assert "small-scale" in record["command"]
        assert re.fullmatch(r"[0-9a-f]{40}( \(dirty\))?", record["commit"])


def test_committed_checkpoints_belong_to_the_stages_of_this_code() -> None:
    for stage in small_scale.stages():
        path = small_scale.DIRECTORY / f"{stage.name}.safetensors"
        model, record = checkpoint.load_model(path)
        assert model.config == small_scale.CONFIG
        assert isinstance(model, DyDiT) == (stage.recipe.target is not None)
        assert json.loads(record["recipe"]) == dataclasses.asdict(stage.recipe)
        parent = small_scale.DIRECTORY / f"{stage.parent}.safetensors"
        assert record["parent_sha256"] == (features.file_sha256(parent) if stage.parent else "")


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
