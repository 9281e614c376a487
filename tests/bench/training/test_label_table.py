"""Training on other classes than the checkpoint's: a label table of its own, said, recorded and gone on with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.training import finetune
from bench.training.checkpoints import read_whole
from bench.training.job import FinetuneOptions, build_network, plan_training
from bench.training.label_table import TABLE, label_remarks
from dydit import DiT, DiTConfig, DyDiT, InputError, checkpoint, is_router_key
from dydit.checkpoint import Checkpoint

CONFIG = DiTConfig(input_size=8, patch_size=4, in_channels=3, hidden_size=16, depth=1, num_heads=2, num_classes=4)


def static(path: Path, record: dict[str, str] | None = None, kind: type[DiT] = DiT, **changes: Any) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(**{**CONFIG.kwargs(), **changes})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    checkpoint.write(path, model, record)
    return str(path)


def folder(path: Path, *names: str) -> str:
    rng = np.random.default_rng(0)
    for name in names:
        (path / name).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path / name / f"{index}.png")
    return str(path)


def options(source: str, data: str, out: Path, **changes: Any) -> FinetuneOptions:
    recipe = {"steps": 2, "batch_size": 4, "target": 0.7, "complete_warmup": 1, "target_hold": 0, "target_reached": 2}
    return FinetuneOptions(**{"source": source, "data": data, "out": out, "save_every": 1, **recipe, **changes})


def built(wanted: FinetuneOptions) -> DiT:
    return build_network(wanted, plan_training(wanted))


@pytest.mark.parametrize("classes", [1, 3, 4, 7])
@pytest.mark.parametrize("dropout", [0.1, 0.0])
@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_the_table_is_made_anew_but_for_the_null_row(
    tmp_path: Path, classes: int, dropout: float, kind: type[DiT]
) -> None:
    source = static(tmp_path / "x.safetensors", kind=kind, class_dropout_prob=dropout)
    before = checkpoint.read(source).state
    model = built(options(source, "unused", tmp_path, new_classes=classes))
    assert (model.config.num_classes, model.config.null_label) == (classes, classes if dropout else None)
    table = model.state_dict()[TABLE]
    assert table.shape == (classes + (dropout > 0), 16)
    if dropout:
        assert torch.equal(table[-1], before[TABLE][-1])
    shared = min(classes, 4)
    assert (table[:shared] != before[TABLE][:shared]).any(1).all()  # nothing of the other classes is left
    assert table[:classes].std().item() == pytest.approx(0.02, abs=0.008)  # as DiT draws them
    own, others = model.state_dict(), built(options(source, "unused", tmp_path)).state_dict()
    unchanged = [
        key for key in others if key != TABLE and not (kind is DiT and is_router_key(key))
    ]  # routers are drawn
    assert all(torch.equal(own[key], others[key]) for key in unchanged)


def test_the_table_depends_on_the_seed_alone(tmp_path: Path) -> None:
    source = static(tmp_path / "x.safetensors")
    tables = [
        built(options(source, "unused", tmp_path, new_classes=3, seed=seed)).state_dict()[TABLE] for seed in (0, 0, 1)
    ]
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])


@pytest.mark.parametrize("classes", [0, -2, 10**11])
def test_a_table_of_no_classes_or_beyond_memory_is_refused(tmp_path: Path, classes: int) -> None:
    with pytest.raises(InputError, match=f"--new-classes {classes}: give a whole number from 1 to 100,000"):
        options("x.safetensors", "digits", tmp_path, new_classes=classes)


@pytest.mark.parametrize("new", [None, 5])
def test_data_of_more_classes_names_the_option(tmp_path: Path, new: int | None) -> None:
    source, data = static(tmp_path / "x.safetensors"), folder(tmp_path / "data", *"abcdef")
    with pytest.raises(InputError, match=f"labels 0 to 5, the network has {new or 4} classes; give --new-classes 6"):
        finetune.finetune(options(source, data, tmp_path / "out", new_classes=new))
    assert not list((tmp_path / "out").glob("*"))


def test_whole_numbers_are_labels_and_need_rows_up_to_the_highest(tmp_path: Path) -> None:
    source, data = static(tmp_path / "x.safetensors"), folder(tmp_path / "data", "0", "10")
    with pytest.raises(InputError, match="labels 0 to 10, the network has 2 classes; give --new-classes 11"):
        finetune.finetune(options(source, data, tmp_path / "out", new_classes=2))


def test_a_run_of_new_classes_is_said_recorded_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, data = static(tmp_path / "x.safetensors"), folder(tmp_path / "data", *"abcdef")
    wanted = options(source, data, tmp_path / "out", new_classes=6)
    path = finetune.finetune(wanted)
    assert path is not None
    told = "made anew for 6 classes (the checkpoint has 4), the null label's row kept"
    assert f"label table: {told}" in capsys.readouterr().err
    model, found = checkpoint.load_model(path)
    assert found.record["label_table"] == told and told in (tmp_path / "out" / "README.md").read_text()
    assert [row["name"] for row in json.loads(found.record["classes"])] == [*"abcdef"]
    assert model.config.num_classes == 6
    whole = read_whole(tmp_path / "out" / "checkpoints" / "00000002.pt")
    assert whole["identity"]["new_classes"] == 6 and [row["label"] for row in whole["classes"]] == [*range(6)]

    (tmp_path / "out" / "checkpoints" / "00000002.pt").unlink()
    again = finetune.finetune(wanted)
    assert again is not None and "going on from" in capsys.readouterr().err
    resumed = checkpoint.load_model(again)[0].state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in model.state_dict().items())
    # What was trained is gone on with by its own table, of its own classes.
    further = options(str(path), data, tmp_path / "further")
    assert torch.equal(built(further).state_dict()[TABLE], model.state_dict()[TABLE])


@pytest.mark.parametrize(("begun", "now"), [(4, None), (None, 4)])
def test_a_table_made_anew_and_the_checkpoints_own_are_two_runs(
    tmp_path: Path, begun: int | None, now: int | None
) -> None:
    """Of equal size, so that nothing else tells them apart."""
    source, data = static(tmp_path / "x.safetensors"), folder(tmp_path / "data", *"abcd")
    finetune.finetune(options(source, data, tmp_path / "out", new_classes=begun))
    with pytest.raises(InputError, match=f"new_classes = {begun}, this one has {now}"):
        finetune.finetune(options(source, data, tmp_path / "out", new_classes=now))


def test_what_decides_a_run_is_as_before_where_nothing_new_is_asked(whole: Path) -> None:
    identity = read_whole(whole / "checkpoints" / "00000006.pt")["identity"]
    names = "recipe network config ordered rates precision data data_sha256 parent_sha256"
    assert list(identity) == names.split()


# What labels mean


def table(*names: str | None) -> list[dict[str, Any]]:
    return [{"label": label, "name": name, "images": 1} for label, name in enumerate(names)]


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (None, table("a", "b", "c", "d"), None),
        (table("a", "b", "c", "d"), table("a", "b", "c", "d"), None),
        (table("a", None, "c", "d"), table("a", "x", "c", None), None),
        (None, table("a", "b"), "the data has 2 of the 4 classes.*--new-classes 2 makes"),
        (table("a", "b", "c", "d"), table("a", "c", "b", "d"), "warning: label 1 is c in the data and was b when x.pt"),
        ("nothing", table("a", "b", "c", "d"), "warning: x.pt: its record of classes cannot be read"),
        (table("a\x1b[0m" * 99), table("b", "c", "d", "e"), "label 0 is b in the data and was a"),
    ],
)
def test_labels_that_meant_something_else_are_warned_of(before: Any, now: Any, message: str | None) -> None:
    record = {} if before is None else {"classes": before if isinstance(before, str) else json.dumps(before)}
    lines = label_remarks(Checkpoint({}, record), CONFIG, now, "x.pt")
    assert len(lines) == (message is not None)
    if message is not None:
        (line,) = lines
        assert re.search(message, line) and line.isprintable() and len(line) < 300
