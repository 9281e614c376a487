from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dydit import DiT, DyDiT, InputError, checkpoint
from dydit.dydit import is_router_key

State = dict[str, Tensor]


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Dangerous:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


# What write and load_model make of a model.


@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_a_written_model_comes_back_with_its_weights_and_record(build, draw, tmp_path: Path, kind: type[DiT]) -> None:
    model, path = build(kind, input_size=4, num_classes=3), tmp_path / "new" / "model.safetensors"
    checkpoint.write(path, model, {"command": "train", "seed": "1"})
    again, found = checkpoint.load_model(path)
    record = found.record
    assert type(again) is kind
    assert again.config == model.config
    assert not again.training
    assert same(again.state_dict(), model.state_dict())
    assert (record["command"], record["seed"], record["kind"]) == ("train", "1", kind.__name__)
    x, t, y = draw(model)
    assert torch.equal(again(x, t, y), model(x, t, y))


def test_half_precision_rounds_the_weights_and_halves_the_file(build, tmp_path: Path) -> None:
    model = build()
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    checkpoint.write(whole, model)
    checkpoint.write(half, model, dtype=torch.float16)
    again = checkpoint.load_model(half)[0].state_dict()
    for key, value in model.state_dict().items():
        assert again[key].dtype == torch.float32
        assert torch.equal(again[key], value.half().float())
    assert half.stat().st_size < 0.6 * whole.stat().st_size


def test_a_written_file_is_readable_by_others(build, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.write(path, build(DiT))
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_failed_write_leaves_things_as_they_were(build, tmp_path: Path, before: bytes | None) -> None:
    """To a limit of the file size, like to a full disk, safetensors answers with an error of its own."""
    path = tmp_path / "model.safetensors"
    if before is not None:
        path.write_bytes(before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.write(path, build(DiT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if before else [])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize(
    "record",
    [
        None,
        {"kind": "DiT"},
        {"kind": "UNet", "config": "{}"},
        {"kind": "DiT", "config": "{"},
        {"kind": "DiT", "config": '{"colour": 1}'},
        {"kind": "DiT", "config": "[]"},
    ],
)
def test_a_file_that_does_not_name_its_model_is_refused(
    build, refusal, tmp_path: Path, record: dict[str, str] | None
) -> None:
    path = tmp_path / "bare.safetensors"
    save_file(build(DiT).state_dict(), path, record)
    with refusal(str(path), "does not name its model"):
        checkpoint.load_model(path)


def test_a_record_that_does_not_fit_the_weights_is_refused(build, refusal, tmp_path: Path) -> None:
    model, path = build(DiT), tmp_path / "model.safetensors"
    config = json.dumps({**model.config.kwargs(), "depth": 3})
    save_file(model.state_dict(), path, {"record": json.dumps({"kind": "DiT", "config": config})})
    with refusal(str(path), "depth = 3", "its weights have 2"):
        checkpoint.load_model(path)


# Published and training layouts.


@pytest.fixture
def training_file(build, tmp_path: Path) -> tuple[Path, State, State]:
    """A training checkpoint as the authors write it, with its `ema` and `model` weights."""
    model, average = build(seed=1), build(seed=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "ema": average.state_dict(),
        "opt": optimizer.state_dict(),
        "args": argparse.Namespace(model="DyDiT", lr=1e-4, betas=[0.9, 0.999], resume=None, cfg=True),
        "step": 5,
    }
    path = tmp_path / "0000005.pt"
    torch.save(content, path)
    return path, average.state_dict(), model.state_dict()


def test_a_training_checkpoint_gives_its_average_unless_told_otherwise(training_file, build) -> None:
    path, average, model = training_file
    assert same(checkpoint.read(path).state, average)
    assert same(checkpoint.read(str(path), "model").state, model)
    fresh = build(seed=3)
    assert checkpoint.load_into(fresh, checkpoint.read(path)) == []
    assert same(fresh.state_dict(), average)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [DiT, DyDiT])
def test_a_bare_state_dict_is_read(build, tmp_path: Path, kind: type[DiT], zipped: bool) -> None:
    model, path = build(kind), tmp_path / "bare.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    bare = checkpoint.read(path)
    assert bare.record == {}
    assert same(bare.state, model.state_dict())


def test_a_static_checkpoint_fills_all_but_the_routers_of_a_dydit(build) -> None:
    static, model = build(DiT, seed=1), build(DyDiT, seed=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    unfilled = checkpoint.load_into(model, checkpoint.Checkpoint(static.state_dict()))
    assert unfilled == [key for key in before if is_router_key(key)]
    assert len(unfilled) == 2 * 8
    after = model.state_dict()
    assert same({key: after[key] for key in unfilled}, {key: before[key] for key in unfilled})
    assert same({key: value for key, value in after.items() if key not in unfilled}, static.state_dict())


def dropped(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


WRONG: dict[str, tuple[type[DiT], type[DiT], Callable[[State], State], tuple[str, ...]]] = {
    "DyDiT into DiT": (DyDiT, DiT, lambda s: s, ("unexpected key blocks.0.attn_rate.router.weight", "a DiT")),
    "missing key": (DiT, DiT, lambda s: dropped(s, "blocks.1.mlp.fc2.bias"), ("blocks.1.mlp.fc2.bias is missing",)),
    "missing static key": (DiT, DyDiT, lambda s: dropped(s, "pos_embed"), ("pos_embed is missing", "a DyDiT")),
    "missing router": (
        DyDiT,
        DyDiT,
        lambda s: dropped(s, "blocks.1.mlp_rate.router.bias"),
        ("blocks.1.mlp_rate.router.bias is missing",),
    ),
    "another key": (DiT, DiT, lambda s: {**s, "stranger": torch.ones(1)}, ("unexpected key stranger",)),
    "another key beside static": (DiT, DyDiT, lambda s: {**s, "blocks.9.x": torch.ones(1)}, ("blocks.9.x",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_keys_that_do_not_fit_are_refused_and_nothing_is_loaded(build, refusal, case: str) -> None:
    source, target, change, parts = WRONG[case]
    model = build(target, seed=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with refusal("file.pt", *parts):
        checkpoint.load_into(model, checkpoint.Checkpoint(change(build(source, seed=1).state_dict())), "file.pt")
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"hidden_size": 32}, ("pos_embed", "(1, 16, 32)", "(1, 16, 48)")),
        ({"num_classes": 9}, ("y_embedder.embedding_table.weight", "(10, 48)", "(11, 48)")),
        ({"num_heads": 3}, ("blocks.0.attn_rate.router.weight", "(2, 48)", "(3, 48)")),
        ({"learn_sigma": False}, ("final_layer.linear.weight", "(16, 48)", "(32, 48)")),
        ({"depth": 3}, ("unexpected key blocks.2.",)),
        ({"depth": 1}, ("blocks.1.", "missing")),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused_with_the_first_difference(
    build, refusal, config: dict[str, int], parts: tuple[str, ...]
) -> None:
    other = checkpoint.Checkpoint(build(**config).state_dict())
    with refusal("there.pt", *parts):
        checkpoint.load_into(build(), other, "there.pt")


# Files that are refused.


@pytest.mark.parametrize("cut", [0, 1, 7, 64, 0.3, 0.6, 0.95, -1])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(build, refusal, tmp_path: Path, form: str, cut: float) -> None:
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pt")
    if form == "safetensors":
        checkpoint.write(path, build(DiT))
    else:
        torch.save(build(DiT).state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    with refusal(str(path), *(("an empty file",) if cut == 0 and form != "safetensors" else ("not a whole", "again"))):
        checkpoint.read(path)


@pytest.mark.parametrize("content", [b"<html>404 not found</html>", b"hello, this is text\n" * 20, bytes(1000)])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_bytes_that_are_no_checkpoint_are_refused(refusal, tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    known = content.startswith(b"<") and suffix != ".safetensors"
    with refusal(str(path), *(("a web page",) if known else ("not a whole", "fetch it again"))):
        checkpoint.read(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_checkpoint_with_code_is_refused_and_the_code_does_not_run(build, refusal, tmp_path: Path, form: str) -> None:
    path, trap = tmp_path / "evil.pt", tmp_path / "trap"
    content = {"ema": build(DiT).state_dict(), "args": Dangerous(trap)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"args": Dangerous(trap)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with refusal(str(path), "refused", "mkdir", "nothing of it was run"):
        checkpoint.read(path)
    assert not trap.exists()


def test_the_trap_of_the_test_before_works(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Dangerous(trap)))
    assert trap.is_dir()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_refused_or_read_and_never_crash(tmp_path: Path, seed: int, zipped: bool) -> None:
    path, generator = tmp_path / "damaged.pt", random.Random(seed)
    torch.save({"weight": torch.ones(4), "bias": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    content = bytearray(path.read_bytes())
    for _ in range(generator.choice((1, 3, 30))):
        content[generator.randrange(len(content))] = generator.randrange(256)
    path.write_bytes(content[: generator.randrange(len(content) // 2, len(content) + 1)])
    try:
        checkpoint.read(path)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        assert str(path) in str(error)


@pytest.mark.parametrize("form", ["zip", "safetensors"])
def test_no_flipped_bit_changes_what_is_read(build, tmp_path: Path, form: str) -> None:
    """Every bit of the headings, and some of the rest."""
    path, model = tmp_path / f"model.{form.replace('zip', 'pt')}", build(DiT, input_size=4, num_classes=3, depth=1)
    if form == "zip":
        torch.save(model.state_dict(), path)
    else:
        checkpoint.write(path, model, {"seed": "1"})
    whole, before = path.read_bytes(), checkpoint.read(path)
    places = [*range(0, 8 * 1200, 7), *random.Random(0).sample(range(8 * len(whole)), 200)]
    places += range(8 * (len(whole) - 1500), 8 * len(whole), 7)
    refused = 0
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            found = checkpoint.read(path)
        except InputError:
            refused += 1
        else:
            assert same(found.state, before.state) and (found.record, found.kind) == (before.record, before.kind)
    assert refused > 0.5 * len(places)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([torch.ones(2)], "list"),
        (torch.ones(2), "Tensor"),
        ({}, "no state dict"),
        ({"a": torch.ones(2), "step": 3}, "no state dict"),
        ({"ema": {"a": torch.ones(2), "step": 3}}, "no state dict"),
        ({"opt": {"lr": 1.0}}, "no state dict"),
        (OrderedDict(ema=OrderedDict()), "no state dict"),
    ],
)
def test_a_file_without_weights_is_refused(refusal, tmp_path: Path, content: Any, named: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with refusal(str(path), named):
        checkpoint.read(path)


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors", "DiT-XL/2"])
def test_a_file_that_does_not_exist_is_refused_with_the_published_names(refusal, tmp_path: Path, name: str) -> None:
    with refusal(name, "no such checkpoint file", *checkpoint.PUBLISHED):
        checkpoint.read(tmp_path / name)


@pytest.mark.parametrize("name", checkpoint.PUBLISHED)
def test_an_unreachable_hub_is_one_line(refusal, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(repository: str, file: str) -> str:
        raise ConnectionError("cannot resolve the host\nof the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    repository, file = checkpoint.PUBLISHED[name]
    with refusal(name, repository, file, "cannot resolve the host"):
        checkpoint.read(name)


def test_a_published_name_is_read_from_the_hub(build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = build(), tmp_path / "hub.pt"
    torch.save(model.state_dict(), path)
    asked = []

    def fetch(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert same(checkpoint.read("dydit-xl-2-lambda-0.5").state, model.state_dict())
    assert asked == [("heisejiasuo/DyDiT", "new_release_2025_03_26/new_dydit0.5.pt")]
