"""Fine-tuning end to end on the digits: resumption, refusals, exported files, the same weights from two processes."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import cli, digits, finetune, small_scale_samples, training_files, training_job
from bench.training_job import Options
from bench.world import World
from dydit import DiT, DyDiT, InputError, checkpoint
from dydit.ablations import ABLATIONS
from dydit.dydit import is_router_key
from dydit.hub import Pretrained
from dydit.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")

STATIC = str(small_scale_samples.DIRECTORY / "dit.safetensors")
REPEATS = int(os.environ.get("DYDIT_KILL_REPEATS", "2"))
"""How often in a row a run is killed."""
SCHEDULE = {"steps": 6, "batch_size": 8, "target": 0.5, "complete_warmup": 3, "target_hold": 1, "target_reached": 4}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever started the tests, this process is alone unless a test says otherwise."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def options(out: Path, changes: dict[str, Any] | None = None, **others: Any) -> Options:
    values = {"source": STATIC, "data": "digits", "out": out, "save_every": 2, **others}
    return Options(**values, changes={**SCHEDULE, **(changes or {})})


NAMES = {"batch_size": "batch", "target": "lambda", "complete_warmup": "warmup"}


def arguments(out: Path, changes: dict[str, Any] | None = None, *more: str) -> list[str]:
    """The command line of `options`."""
    wanted = {**SCHEDULE, **(changes or {})}
    given = [text for name in wanted for text in (f"--{NAMES.get(name, name).replace('_', '-')}", str(wanted[name]))]
    return ["finetune", "--from", STATIC, "--data", "digits", "--out", str(out), "--save-every", "2", *given, *more]


def exported(out: Path) -> dict[str, dict[str, Tensor]]:
    content: dict[str, dict[str, Tensor]] = torch.load(out / "model.pt", weights_only=True)
    return content


def assert_equal_runs(one: Path, other: Path) -> None:
    mine, theirs = exported(one), exported(other)
    for name in ("ema", "model"):
        assert mine[name].keys() == theirs[name].keys()
        assert all(torch.equal(mine[name][key], theirs[name][key]) for key in theirs[name])
    for name in ("log.csv", "rates.csv"):
        assert (one / name).read_text() == (other / name).read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    assert finetune.run(options(out)) == out / "model.safetensors"
    assert torch.get_num_threads() == threads
    return out


def test_a_run_writes_its_log_checkpoints_and_exported_files(whole: Path) -> None:
    names = {"log.csv", "rates.csv", "checkpoints", "model.safetensors", "model.pt", "README.md"}
    assert {path.name for path in whole.iterdir()} == names
    assert [path.name for path in sorted((whole / "checkpoints").iterdir())] == ["00000004.pt", "00000006.pt"]
    with (whole / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(6))
    assert [float(row["target"]) for row in rows] == pytest.approx([1, 1, 5 / 6, 2 / 3, 0.5, 0.5])
    with (whole / "rates.csv").open(newline="") as file:
        rates = list(csv.DictReader(file))
    assert [(row["step"], row["layer"]) for row in rates] == [("0", str(layer)) for layer in range(4)]


def test_exported_files_load_and_generate(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, record = checkpoint.load_model(whole / "model.safetensors")
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


def test_the_network_starts_from_the_static_weights_in_order_or_not(tmp_path: Path) -> None:
    static = checkpoint.load_model(STATIC)[0]
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([10, 900]), torch.tensor([1, 2])
    for ablation in ((), ("no-ordering",)):
        wanted = options(tmp_path, ablation=ablation)
        model = training_job.build(wanted, training_job.plan(wanted)).eval()
        torch.testing.assert_close(model(*inputs), static(*inputs), rtol=1e-4, atol=1e-5)
        key = "blocks.0.attn.qkv.weight"
        assert torch.equal(model.state_dict()[key], static.state_dict()[key]) == bool(ablation)


def test_a_run_that_is_through_trains_no_step_more(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = exported(whole)
    finetune.run(options(whole))
    assert "step 6 of 6" in capsys.readouterr().err
    assert all(torch.equal(value, exported(whole)["ema"][key]) for key, value in before["ema"].items())


@pytest.fixture(scope="module")
def server() -> Any:
    """Processes that start fast: forked from one that has imported everything, and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.finetune", "bench.cli", "sklearn.datasets"])
    return context


PROGRAM = """
import os, sys
sys.stdout, sys.stderr = open(os.devnull, "w"), open({log!r}, "w")
from bench import cli
from bench.commands import finetune
cli.COMMANDS = (finetune,)
cli.main({arguments!r})
"""


def test_a_killed_run_goes_on_to_the_same_weights_to_the_bit(tmp_path: Path, server: Any) -> None:
    changes = {"steps": 40, "target_reached": 30}
    finetune.run(options(tmp_path / "whole", changes))
    out, log, random_ = tmp_path / "killed", tmp_path / "log", random.Random()
    for kill in range(REPEATS):
        code = PROGRAM.format(log=str(log), arguments=arguments(out, changes))
        process = server.Process(target=exec, args=(code,))
        process.start()
        there, deadline = set((out / "checkpoints").glob("[0-9]*")), time.monotonic() + 60
        while not set((out / "checkpoints").glob("[0-9]*")) - there:  # every attempt gets one checkpoint further
            assert time.monotonic() < deadline, log.read_text()
            if not process.is_alive():
                assert process.exitcode == 0 and kill > 0, log.read_text()
                break
            time.sleep(0.002)
        time.sleep(random_.uniform(0, 0.2))
        process.kill()
        process.join()
    finetune.run(options(out, changes))
    assert_equal_runs(out, tmp_path / "whole")
    assert not list(out.rglob(".*"))


def test_a_checkpoint_cut_short_is_passed_over(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune.run(options(tmp_path))
    newest = tmp_path / "checkpoints" / "00000006.pt"
    newest.write_bytes(newest.read_bytes()[: 2 * newest.stat().st_size // 3])
    finetune.run(options(tmp_path))
    error = capsys.readouterr().err
    assert "00000006.pt: not a whole checkpoint" in error and "going on from" in error
    assert_equal_runs(tmp_path, whole)


@pytest.mark.parametrize(
    ("changes", "others", "field"),
    [
        ({"target": 0.7}, {}, "recipe.target = 0.5"),
        ({"learning_rate": 1e-3}, {}, "recipe.learning_rate"),
        ({}, {"ablation": ("tdw-only",)}, "network = DyDiT"),
        ({}, {"ablation": ("no-ordering",)}, "ordered = True"),
        ({}, {"precision": "bf16"}, "precision = fp32"),
    ],
)
def test_another_run_is_not_gone_on_with(
    whole: Path, changes: dict[str, Any], others: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError, match=f"{field}.*choose another directory"):
        finetune.run(options(whole, changes, **others))


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = torch.save, []

    def full(content: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        real(content, path)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr(torch, "save", full)
        cli.main(arguments(tmp_path))
    assert exit_.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and "No space left" in last and "00000004.pt" in last
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000002.pt"]
    finetune.run(options(tmp_path))
    assert_equal_runs(tmp_path, whole)


def test_divergence_stops_with_the_last_good_checkpoint_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Training.advance

    def diverging(self: Training, data: Any) -> Any:
        if self.step == 3:
            raise InputError("training diverged at step 3: loss nan, gradient norm nan")
        return advance(self, data)

    monkeypatch.setattr(Training, "advance", diverging)
    with pytest.raises(InputError, match=r"diverged at step 3.*the last checkpoint is .*00000002\.pt"):
        finetune.run(options(tmp_path))
    assert training_files.newest(tmp_path) == tmp_path / "checkpoints" / "00000002.pt"


def test_two_processes_train_the_same_weights(tmp_path: Path) -> None:
    """To 1e-5 of their norm; the biases of keys are left out, whose gradient is rounding alone."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bench"]
    changes = {"micro_batch": 2}
    two = subprocess.run(
        [*launch, *arguments(tmp_path / "two", changes)], capture_output=True, text=True, timeout=120, check=False
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("trained: ") == 1 and "processes: 2" in two.stderr
    finetune.run(options(tmp_path / "one", changes))
    for name, state in exported(tmp_path / "one").items():
        for key, value in state.items():
            other = exported(tmp_path / "two")[name][key]
            if key.endswith("qkv.bias"):
                value, other = (each.reshape(3, -1)[::2] for each in (value, other))
            assert (other - value).norm() <= 1e-5 * value.norm(), key


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 x 8 images .* 2 processes; choose a micro_batch"):
        training_job.prepare(options(tmp_path), World(0, 2), torch.device("cpu"))


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name not in ("both", "random", "soft-gated")])
def test_ablations_are_networks_by_name(tmp_path: Path, name: str) -> None:
    wanted = options(tmp_path, {"target": 0.8}, ablation=(name,))
    model = training_job.build(wanted, training_job.plan(wanted))
    assert type(model) is ABLATIONS[name].kind


def test_random_routing_trains_at_given_rates_and_soft_gates_at_lambda_one(tmp_path: Path) -> None:
    for name, changes, others in (
        ("random", {"steps": 2}, {"rates": (0.5, 0.5, 0.8)}),
        ("soft-gated", {"steps": 2, "target": 1.0}, {}),
    ):
        path = finetune.run(options(tmp_path / name, changes, ablation=(name,), **others))
        assert path is not None and type(checkpoint.load_model(path)[0]) is ABLATIONS[name].kind
    assert checkpoint.read(tmp_path / "random" / "model.safetensors").state["random_rates"].tolist() == pytest.approx(
        [0.5, 0.5, 0.8]
    )


def test_the_static_control_is_trained_by_the_same_recipe(tmp_path: Path) -> None:
    path = finetune.run(options(tmp_path, {"steps": 2}, ablation=("static",)))
    assert path is not None
    model, record = checkpoint.load_model(path)
    assert type(model) is DiT and not any(map(is_router_key, model.state_dict()))
    recipe = json.loads(record["recipe"])
    assert (recipe["target"], recipe["complete_warmup"], recipe["steps"]) == (None, 0, 2)


def test_a_named_recipe_with_changes_says_so(tmp_path: Path) -> None:
    wanted = Options(
        source=STATIC, data="digits", out=tmp_path, recipe="dydit-xl-0.5", changes={"steps": 7}, ablation=("no-warmup",)
    )
    planned = training_job.plan(wanted)
    assert (planned.recipe.steps, planned.recipe.complete_warmup, planned.recipe.target) == (7, 0, 0.5)
    assert planned.network == "DyDiT-XL/2" and planned.source.endswith("changed: steps = 7")


def pictures(folder: Path, side: int, *, classes: bool = True, grey: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for index in range(4):
        path = folder / (f"class{index % 2}" if classes else ".") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side) if grey else (side, side, 3), dtype=np.uint8)).save(path)
    return folder


def test_a_folder_of_pictures_trains_a_model_of_pixels(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 12)
    assert finetune.run(options(tmp_path / "out", {"steps": 2, "flip": True}, data=str(folder)))


def broken(tmp_path: Path, name: str) -> dict[str, Any]:
    """Options that must be refused, by the name of what is wrong with them."""
    if name == "labels":
        return {"data": str(pictures(tmp_path / "pictures", 12, classes=False))}
    if name == "small":
        return {"data": str(pictures(tmp_path / "pictures", 6))}
    if name == "colour":
        return {"data": str(pictures(tmp_path / "pictures", 12, grey=False))}
    if name == "unwritable":
        (tmp_path / "file").write_text("")
        return {"out": tmp_path / "file" / "out"}
    return {
        "size": {"model": "DyDiT-S/2"},
        "dynamic": {"source": str(small_scale_samples.DIRECTORY / "dydit-0.5.safetensors")},
        "missing": {"source": "nowhere.safetensors"},
        "data": {"data": "nowhere"},
        "rates": {"ablation": ("random",)},
        "two": {"ablation": ("tdw-only", "sdt-only")},
        "unknown": {"ablation": ("tdw",)},
        "lambda": {"ablation": ("soft-gated",)},
        "recipe": {"recipe": "dydit-l-0.5"},
        "precision": {"precision": "fp16"},
        "tf32": {"tf32": True},
        "keep": {"keep": 0},
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("labels", "no class labels"),
        ("small", "6x6 pixels, smaller than the crop of 8x8"),
        ("colour", "colour"),
        ("unwritable", "is a file"),
        ("size", "has shape"),
        ("dynamic", "fine-tuned already"),
        ("missing", "no such checkpoint"),
        ("data", "no such file or folder"),
        ("rates", "needs --rates"),
        ("two", "choose one"),
        ("unknown", "nearest names: tdw-only"),
        ("lambda", "choose a larger lambda"),
        ("recipe", "unknown recipe"),
        ("precision", "fp32, bf16"),
        ("tf32", "a CPU has no TF32"),
        ("keep", "keep = 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        finetune.run(options(**{"out": tmp_path / "out", **broken(tmp_path, name)}))
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


def test_without_a_recipe_steps_batch_and_lambda_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["finetune", "--from", STATIC, "--data", "digits", "--out", str(tmp_path), "--steps", "3"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert "--recipe NAME" in error and len(error.splitlines()) == 1
