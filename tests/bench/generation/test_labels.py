"""Labels of a generation: trained classes, classes asked for, and runs that are told apart by them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import cli
from bench.data import shards
from bench.generation.generate import generate_images
from bench.generation.job import GenerationOptions, generation_identity, prepare_generation
from bench.generation.labels import DrawnLabels, choose_labels
from bench.quality.drift import check_pair
from bench.training.checkpoints import save_checkpoint
from dydit import DiT, DiTConfig, DyDiT, InputError, checkpoint, draw
from dydit.sampling import ImageNoise

CONFIG = DiTConfig(input_size=4, patch_size=2, in_channels=1, hidden_size=16, depth=1, num_heads=2, num_classes=10)
PETS = [
    {"label": 1, "name": "cat", "images": 3},
    {"label": 4, "name": "dog, large", "images": 1},
    {"label": 5, "name": "eel", "images": 0},
    {"label": 7, "name": "7", "images": 2},
    {"label": 8, "name": None, "images": 2},
]


def recorded(classes: Any, num_classes: int = 10) -> DrawnLabels:
    return chosen(None, classes, num_classes)


def chosen(asked: str | None, classes: Any = PETS, num_classes: int = 10) -> DrawnLabels:
    record = {} if classes is None else {"classes": classes if isinstance(classes, str) else json.dumps(classes)}
    config = dataclasses.replace(CONFIG, num_classes=num_classes)
    return choose_labels(asked, record, config, "x.pt")


def written(path: Path, classes: Any = PETS, kind: type[DiT] = DiT, **changes: Any) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(**{**CONFIG.kwargs(), **changes})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    checkpoint.write(path, model, {} if classes is None else {"classes": json.dumps(classes)})
    return str(path)


def options(checkpoint: str, out: Path, **changes: Any) -> GenerationOptions:
    return GenerationOptions(**{"checkpoint": checkpoint, "out": out, "images": 40, "steps": 2, "unit": 8, **changes})


def labels_of(wanted: GenerationOptions) -> list[int]:
    path = generate_images(wanted)
    assert path is not None
    with np.load(path) as file:
        labels: list[int] = file["arr_1"].tolist()
    return labels


# Which labels


def test_labels_are_those_of_classes_with_images_or_all() -> None:
    assert recorded(PETS).labels == (1, 4, 7, 8)
    assert recorded(None).labels == tuple(range(10)) and recorded(None).all_classes
    assert recorded(PETS[::-1]).labels == (1, 4, 7, 8)


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        ("cat", (1,)),
        ("7,cat", (1, 7)),
        (" cat , 7 ", (1, 7)),
        ("dog, large", (4,)),  # a name that holds a comma stands alone
        ("3", (3,)),
        ("+3,0", (0, 3)),
        ("0,1,2,3,4,5,6,7,8,9", tuple(range(10))),
    ],
)
def test_classes_are_asked_for_by_name_or_number(asked: str, labels: tuple[int, ...]) -> None:
    assert chosen(asked).labels == labels and chosen(asked).asked


@pytest.mark.parametrize(
    ("asked", "classes", "message"),
    [
        ("10", PETS, "10 is the null label.*classes 0 to 9"),
        ("11", PETS, "11 is no class"),
        ("-1", PETS, "-1 is no class"),
        ("cta", PETS, 'records no "cta"; nearest names: "cat"'),
        ("dog, large,cat", PETS, 'records no "dog"'),
        ("", PETS, 'records no ""'),
        ("cat,", PETS, 'records no ""'),
        ("cat,1", PETS, "class 1, which is listed twice"),
        ("2,2", PETS, "class 2, which is listed twice"),
        ("eel", PETS, 'records no "eel"'),  # no image of it
        ("cat", None, r'records no names, not "cat"; give numbers, 0 to 9'),
        ("9" * 5000, PETS, "records no"),  # beyond what Python reads as a number
        ("²", PETS, "records no"),
        ("1_0", PETS, "records no"),
        ("x" * 10**6, PETS, "records no"),
        ("\x1b[31m\n", PETS, r"records no"),
        ("cat", [{**PETS[0]}, {**PETS[1], "name": "cat"}], "may be class 1 or 4"),
        ("2", [{"label": 5, "name": "2", "images": 1}], "may be class 2 or 5"),
        (None, [{**PETS[0], "label": 12}], "images of class 12 for a network of 10 classes"),
        (None, [{**PETS[0], "images": 0}], "no images for a network of 10 classes"),
        (None, [], "no images for a network of 10 classes"),
    ],
)
def test_classes_that_are_none_are_refused_in_one_line(asked: str | None, classes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        chosen(asked, classes)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "record",
    [
        "3 classes: 0 = cat",
        "{}",
        "[1]",
        '[{"label": 1}]',
        '[{"label": true, "name": null, "images": 1}]',
        "[[]]",
        "1e999",
        "[" * 10**5,
        json.dumps([PETS[0], PETS[0]]),
        json.dumps([{**PETS[0], "name": 3}]),
        json.dumps([{**PETS[0], "images": -1}]),
    ],
)
def test_a_record_that_cannot_be_read_is_warned_of_and_all_classes_are_drawn(record: str) -> None:
    drawn = chosen(None, record)
    assert drawn.all_classes and "warning: x.pt: its record of classes cannot be read" in drawn.remarks("x.pt")[0]


@given(
    record=st.text(max_size=30) | st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=5),
    asked=st.none() | st.text(max_size=12),
)
@settings(max_examples=200, deadline=None)
def test_no_record_and_no_list_ends_in_a_traceback(record: Any, asked: str | None) -> None:
    try:
        drawn = chosen(asked, record)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert drawn.labels and set(drawn.labels) <= set(range(10))


def test_what_was_never_trained_is_warned_of() -> None:
    assert chosen("cat").remarks("x.pt")[-1] == "labels are drawn from 1 of 10 classes: 1"
    (*_, line) = chosen("0,2,3,5,7").remarks("x.pt")
    assert line == "warning: the training that x.pt records saw no image of these classes: 0, 2 to 3, 5"
    assert recorded(None).remarks("x.pt") == []
    assert recorded([{"label": n, "name": None, "images": 1} for n in range(10)]).remarks("x.pt") == []


# Images


def test_labels_are_drawn_from_the_classes_alone_and_evenly() -> None:
    def solve(x: Any, *_: Any) -> Any:
        return x

    some = draw(solve, (1, 1, 1), 10, range(3000), seed=0, classes=[2, 5, 9])[1]
    assert set(some.tolist()) == {2, 5, 9} and all(abs(count - 1000) < 120 for count in Counter(some.tolist()).values())
    whole = draw(solve, (1, 1, 1), 10, range(50), seed=0, classes=range(10))[1]
    assert torch.equal(whole, draw(solve, (1, 1, 1), 10, range(50), seed=0)[1])
    assert torch.equal(whole, ImageNoise(0, range(50)).labels(10))
    for classes in ([10], [-1], []):
        with pytest.raises(InputError):
            draw(solve, (1, 1, 1), 10, [0], seed=0, classes=classes)


def test_a_run_draws_trained_classes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "x.safetensors")
    assert set(labels_of(options(source, tmp_path / "out"))) == {1, 4, 7, 8}
    said = capsys.readouterr().err
    assert "trained on 4 classes: 1 = cat (3)" in said and "labels are drawn from 4 of 10 classes: 1, 4, 7 to 8" in said
    assert shards.read_manifest(tmp_path / "out").identity["classes"] == [1, 4, 7, 8]
    assert labels_of(options(source, tmp_path / "cats", classes="cat")) == [1] * 40


def test_a_checkpoint_of_a_training_tells_its_classes_too(tmp_path: Path) -> None:
    model = DyDiT(**CONFIG.kwargs())
    state = {"step": 2, "model": model.state_dict(), "average": model.state_dict(), "optimizer": {}}
    identity = {"network": "DyDiT", "config": CONFIG.kwargs()}
    path = save_checkpoint(tmp_path, state, identity, PETS, keep=1, logs={})
    assert prepare_generation(options(str(path), tmp_path / "out")).labels.labels == (1, 4, 7, 8)


@pytest.mark.parametrize(
    ("begun", "now", "message"),
    [
        ("cat", None, r"classes = \[1\], this one has \[1, 4, 7, 8\]"),
        (None, "cat", r"classes = \[1, 4, 7, 8\], this one has \[1\]"),
        ("cat", "7", r"classes = \[1\], this one has \[7\]"),
        ("cat", "0,1,2,3,4,5,6,7,8,9", r"classes = \[1\], this one has None"),
    ],
)
def test_runs_of_other_classes_are_not_mixed(tmp_path: Path, begun: str | None, now: str | None, message: str) -> None:
    source, out = written(tmp_path / "x.safetensors"), tmp_path / "out"
    generate_images(options(source, out, classes=begun, images=8))
    with pytest.raises(InputError, match=message):
        generate_images(options(source, out, classes=now, images=8))


def test_the_order_of_the_list_changes_nothing(tmp_path: Path) -> None:
    source, out = written(tmp_path / "x.safetensors"), tmp_path / "out"
    first = labels_of(options(source, out, classes="cat,7"))
    assert labels_of(options(source, out, classes="7,1")) == first


def test_a_run_that_an_earlier_version_began_goes_on_with_all_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its manifest knows no classes, whatever the checkpoint records."""
    source, out = written(tmp_path / "x.safetensors"), tmp_path / "out"
    unknown = written(tmp_path / "unknown.safetensors", classes=None)  # the same weights
    earlier = labels_of(options(unknown, out, images=24))
    assert set(earlier) - {1, 4, 7, 8}
    finished = {path: path.stat().st_mtime_ns for path in (out / "units").iterdir()}
    assert labels_of(options(source, out, images=24)) == earlier
    assert {path: path.stat().st_mtime_ns for path in (out / "units").iterdir()} == finished
    assert "saw no image of these classes: 0, 2 to 3, 5 to 6, 9" in capsys.readouterr().err
    grown = labels_of(options(source, out, images=40))
    assert grown[:24] == earlier and grown == labels_of(options(unknown, tmp_path / "fresh", images=40))
    shutil.rmtree(tmp_path / "fresh")
    with pytest.raises(InputError, match=r"classes = None, this one has \[1\]"):
        generate_images(options(source, out, classes="cat"))


def test_the_identity_knows_no_classes_where_all_are_drawn(tmp_path: Path) -> None:
    everything = [{"label": label, "name": None, "images": 1} for label in range(10)]
    for name, classes, asked in (
        ("none", None, None),
        ("all", everything, None),
        ("asked", PETS, "0,1,2,3,4,5,6,7,8,9"),
    ):
        source = written(tmp_path / f"{name}.safetensors", classes)
        assert "classes" not in generation_identity(prepare_generation(options(source, tmp_path, classes=asked)))


def test_runs_of_other_classes_are_no_pair(tmp_path: Path) -> None:
    source = written(tmp_path / "x.safetensors")
    for name in ("cat", "7"):
        generate_images(options(source, tmp_path / name, classes=name, images=8))
    with pytest.raises(InputError, match=r"has classes \[1\], .* has \[7\]"):
        check_pair(tmp_path / "cat", tmp_path / "7")


def test_routing_is_observed_on_trained_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "x.safetensors", kind=DyDiT)
    line = ["routing", "--checkpoint", source, "--images", "16", "--steps", "2", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit_:
        cli.main([*line, "--classes", "cat,7"])
    assert exit_.value.code == 0 and "drawn from 2 of 10 classes: 1, 7" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["sampling"]["classes"] == [1, 7]
    with np.load(tmp_path / "out" / "routing.npz") as file:
        assert set(file["labels"].tolist()) == {1, 7}
