"""Fine-tuning end to end on the digits: what is trained, what is written, and that it can be used."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import cli
from bench.data.sets import digits
from bench.training import finetune, job, log
from bench.training.job import FinetuneOptions, build_network, plan_training
from dydit import DiT, DyDiT, InputError, checkpoint
from dydit.ablations.registry import ABLATIONS
from dydit.checkpoint.hub import Pretrained
from dydit.dydit import is_router_key
from dydit.training import NamedRecipe, Recipe


def test_a_run_writes_its_log_checkpoints_and_exported_files(whole: Path) -> None:
    names = {"log.csv", "rates.csv", "checkpoints", "model.safetensors", "model.pt", "README.md"}
    assert {path.name for path in whole.iterdir()} == names
    assert [path.name for path in sorted((whole / "checkpoints").iterdir())] == ["00000004.pt", "00000006.pt"]
    with (whole / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(6))
    assert [float(row["target"]) for row in rows] == pytest.approx([1, 0.875, 0.75, 0.625, 0.5, 0.5])
    with (whole / "rates.csv").open(newline="") as file:
        rates = list(csv.DictReader(file))
    assert [(row["step"], row["layer"]) for row in rates] == [("0", str(layer)) for layer in range(4)]


def test_exported_files_load_and_generate(
    whole: Path, exported: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, found = checkpoint.load_model(whole / "model.safetensors")
    record = found.record
    assert type(model) is DyDiT and record["data_sha256"] == digits.checksum()
    assert json.loads(record["recipe"])["target"] == 0.5
    for weights, expected in (("ema", model.state_dict()), ("model", exported(whole)["model"])):
        found = checkpoint.read(whole / "model.pt", weights).state
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    card = (whole / "README.md").read_text()
    assert "lambda) 0.5" in card and record["parent_sha256"] in card and "complete_warmup | 3" in card
    again = Pretrained.from_pretrained(whole).model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    made = ["generate", "--checkpoint", str(whole / "model.safetensors"), "--images", "4", "--steps", "2"]
    with pytest.raises(SystemExit) as exit_:
        cli.main([*made, "--out", str(tmp_path / "samples")])
    assert exit_.value.code == 0 and "4 images" in capsys.readouterr().out


def test_the_network_starts_from_the_static_weights_in_order_or_not(
    tmp_path: Path, static: str, options: Callable[..., FinetuneOptions]
) -> None:
    start = checkpoint.load_model(static)[0]
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([10, 900]), torch.tensor([1, 2])
    for ablation in ((), ("no-ordering",)):
        wanted = options(tmp_path, ablation=ablation)
        model = build_network(wanted, plan_training(wanted)).eval()
        torch.testing.assert_close(model(*inputs), start(*inputs), rtol=1e-4, atol=1e-5)
        key = "blocks.0.attn.qkv.weight"
        assert torch.equal(model.state_dict()[key], start.state_dict()[key]) == bool(ablation)


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name not in ("both", "random", "soft-gated")])
def test_ablations_are_networks_by_name(tmp_path: Path, options: Callable[..., FinetuneOptions], name: str) -> None:
    wanted = options(tmp_path, {"target": 0.8}, ablation=(name,))
    model = build_network(wanted, plan_training(wanted))
    assert type(model) is ABLATIONS[name].kind


@pytest.mark.parametrize("name", ["prune:taylor:0.5", "prune:random:0.5", "remove:1"])
def test_smaller_static_networks_are_made_of_the_checkpoint(
    tmp_path: Path, static: str, options: Callable[..., FinetuneOptions], name: str
) -> None:
    wanted = options(tmp_path, ablation=(name,))
    planned = plan_training(wanted)
    model = build_network(wanted, planned)
    assert type(model) is DiT and model.training and planned.recipe.target is None
    start = checkpoint.load_model(static)[0]
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in start.parameters())
    with pytest.raises(InputError, match="it is written"):
        plan_training(options(tmp_path, ablation=(name.split(":")[0],)))


def test_random_routing_trains_at_given_rates_and_soft_gates_at_lambda_one(
    tmp_path: Path, options: Callable[..., FinetuneOptions]
) -> None:
    for name, changes, others in (
        ("random", {"steps": 2}, {"rates": (0.5, 0.5, 0.8)}),
        ("soft-gated", {"steps": 2, "target": 1.0}, {}),
    ):
        path = finetune.finetune(options(tmp_path / name, changes, ablation=(name,), **others))
        assert path is not None and type(checkpoint.load_model(path)[0]) is ABLATIONS[name].kind
    assert checkpoint.read(tmp_path / "random" / "model.safetensors").state["random_rates"].tolist() == pytest.approx(
        [0.5, 0.5, 0.8]
    )


def test_the_static_control_is_trained_by_the_same_recipe(
    tmp_path: Path, options: Callable[..., FinetuneOptions]
) -> None:
    path = finetune.finetune(options(tmp_path, {"steps": 2}, ablation=("static",)))
    assert path is not None
    model, found = checkpoint.load_model(path)
    record = found.record
    assert type(model) is DiT and not any(map(is_router_key, model.state_dict()))
    recipe = json.loads(record["recipe"])
    assert (recipe["target"], recipe["complete_warmup"], recipe["steps"]) == (None, 0, 2)


def test_a_named_recipe_with_changes_says_so(tmp_path: Path, static: str) -> None:
    wanted = FinetuneOptions(
        source=static, data="digits", out=tmp_path, recipe="dydit-xl-0.5", steps=7, ablation=("no-warmup",)
    )
    planned = plan_training(wanted)
    assert (planned.recipe.steps, planned.recipe.complete_warmup, planned.recipe.target) == (7, 0, 0.5)
    assert planned.network == "DyDiT-XL/2" and planned.source.endswith("changed: steps = 7")


def test_released_recipes_leave_heads_and_channel_groups_in_their_order(tmp_path: Path, static: str) -> None:
    def ordered(recipe: str, *ablation: str) -> bool:
        wanted = FinetuneOptions(source=static, data="digits", out=tmp_path, recipe=recipe, ablation=ablation)
        return plan_training(wanted).ordered

    assert ordered("dydit-xl-0.5") and not ordered("dydit-xl-0.5", "no-ordering")
    assert not ordered("released-xl-0.5") and not ordered("released-xl-0.5", "no-warmup")


@pytest.mark.parametrize(
    ("recipe", "changes", "sizes"),
    [
        ("released-xl-0.5", {}, None),
        ("released-xl-0.5", {"batch_size": 64}, None),
        ("released-xl-0.5", {"micro_batch": 8}, (8, 32)),
        ("dydit-xl-0.5", {"micro_batch": 32}, (32, 256)),
        ("dydit-xl-0.5", {"batch_size": 64}, (64, 256)),
    ],
)
def test_another_group_of_the_flops_loss_than_the_recipes_is_warned_of(
    tmp_path: Path, static: str, recipe: str, changes: dict[str, int], sizes: tuple[int, int] | None
) -> None:
    wanted = FinetuneOptions(source=static, data="digits", out=tmp_path, recipe=recipe, **changes)
    warning = plan_training(wanted).warning
    if sizes is None:
        assert warning is None
    else:
        mine, published = sizes
        assert warning is not None
        assert f"mean ratio of {mine} images, in the recipe {recipe} of {published}" in warning
    control = FinetuneOptions(
        source=static, data="digits", out=tmp_path, recipe=recipe, ablation=("static",), **changes
    )
    assert plan_training(control).warning is None


def test_the_warning_is_printed_once(
    tmp_path: Path,
    options: Callable[..., FinetuneOptions],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = Recipe(steps=3, batch_size=8, seed=0, target=0.5, micro_batch=8)
    small: Any = NamedRecipe("small", None, recipe, "made up")  # type: ignore[arg-type]  # the file names its network
    monkeypatch.setattr(job, "find_recipe", lambda _: small)
    finetune.finetune(options(tmp_path, {"steps": 3, "micro_batch": 4}, recipe="small"))
    assert capsys.readouterr().err.count("warning: the FLOPs loss takes the mean ratio of 4 images") == 1


def test_a_folder_of_pictures_trains_a_model_of_pixels(
    tmp_path: Path, options: Callable[..., FinetuneOptions], pictures: Callable[..., Path]
) -> None:
    folder = pictures(tmp_path / "pictures", 12)
    assert finetune.finetune(options(tmp_path / "out", {"steps": 2, "flip": True}, data=str(folder)))


def test_tensorboard_shows_the_logs_with_every_step_once(
    tmp_path: Path, options: Callable[..., FinetuneOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(log, "RATES_EVERY", 2)
    finetune.finetune(options(tmp_path, tensorboard=True))
    (tmp_path / "checkpoints" / "00000006.pt").unlink()
    finetune.finetune(options(tmp_path, tensorboard=True))  # steps 4 and 5 once more
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rates = {f"{name}/{layer:02}" for name in ("heads", "channel_groups", "tokens") for layer in range(4)}
    assert set(shown.Tags()["scalars"]) == {"loss", "ratio", "target", "gradient_norm"} | rates
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "ratio", "target", "gradient_norm"):
        assert [event.step for event in shown.Scalars(name)] == list(range(6))
        logged = [float(row[name]) for row in rows]
        assert [event.value for event in shown.Scalars(name)] == pytest.approx(logged, rel=1e-6)
    assert [event.step for event in shown.Scalars("tokens/03")] == [0, 2, 4]


def test_without_tensorboard_nothing_is_written_for_it(whole: Path) -> None:
    assert not (whole / "tensorboard").exists()
