"""Folders of trained networks: saved and loaded whole, of any kind, with a card."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

from dydit import DiT, DyDiT
from dydit.ablations.networks import TdwOnly
from dydit.checkpoint import hub
from dydit.checkpoint.hub import Pretrained


@pytest.mark.parametrize("kind", [DiT, DyDiT, TdwOnly])
def test_a_saved_network_comes_back_as_it_was(build, draw, tmp_path: Path, kind: type[DiT]) -> None:
    model = build(kind)
    Pretrained(model, {"data": "made up"}).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    loaded = Pretrained.from_pretrained(tmp_path)
    assert type(loaded.model) is kind and not loaded.model.training
    assert loaded.record["data"] == "made up"
    inputs = draw(model)
    with torch.no_grad():
        assert torch.equal(loaded.model(*inputs), model(*inputs))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"kind": kind.__name__, **model.config.kwargs()}
    card = (tmp_path / "README.md").read_text()
    assert f"# {kind.__name__}" in card and "| data | made up |" in card and "## Recipe" not in card


def test_a_card_that_is_there_stays(build, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    Pretrained(build(DiT)).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_repository_is_fetched_by_name(build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretrained(build(DiT)).save_pretrained(tmp_path)
    asked = []

    def fetch(repository: str, name: str, **options: object) -> str:
        asked.append((repository, name, options["revision"]))
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", lambda **_: str(tmp_path / "config.json"))
    assert type(Pretrained.from_pretrained("someone/model", revision="v1").model) is DiT
    assert asked == [("someone/model", "model.safetensors", "v1")]


def test_a_folder_without_weights_is_refused(refusal, tmp_path: Path) -> None:
    with refusal("model.safetensors", "no such checkpoint"):
        Pretrained.from_pretrained(tmp_path)
