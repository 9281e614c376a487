"""`bench inspect` says of every kind of file what it is, and of anything else what it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import cli
from bench.inspection.inspect_file import inspect
from bench.records import file_sha256, shipped_data
from bench.studies.samples import committed_file
from dydit import InputError, checkpoint


def test_a_checkpoint() -> None:
    path = committed_file(0.5)
    facts = inspect(str(path))
    network, found = checkpoint.load_model(path)
    assert facts["what"] == "checkpoint" and facts["network"] == "DyDiT" and facts["sha256"] == file_sha256(path)
    assert facts["classes"] == "10 and a null label" and facts["resolution"] == "8 x 8, channels: 1"
    assert facts["parameters"] == f"{sum(each.numel() for each in network.parameters()):,}"
    assert "target = 0.5" in facts["recipe"]
    assert facts["commit"] == found.record["commit"] and facts["dtype"] == f"float16 ({len(found.state)} tensors)"
    assert inspect(str(committed_file()))["routing"] == "none, a static network"


def test_a_training_checkpoint_of_another_tool(tmp_path: Path) -> None:
    network = checkpoint.load_model(committed_file(0.5))[0]
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"model": state, "ema": state, "epoch": 7}, tmp_path / "0007.pt")
    facts = inspect(str(tmp_path / "0007.pt"))
    assert "prefix 'module.'" in facts["notes"] and "'ema'" in facts["notes"] and facts["network"] == "DyDiT"


def test_statistics_and_images(tmp_path: Path) -> None:
    facts = inspect(str(shipped_data() / "statistics" / "digits.npz"))
    assert facts["what"] == "reference statistics" and facts["extractor"] == "digits-cnn" and facts["images"] == "1797"
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((3, 4, 6, 3), np.uint8), arr_1=np.array([0, 1, 1]))
    facts = inspect(str(tmp_path / "x.npz"))
    assert (facts["images"], facts["size"], facts["labels"]) == ("3", "4 x 6", "2 classes: 0 (1), 1 (2)")
    for name in ("1.png", "2.PNG", "3.webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    facts = inspect(str(tmp_path))
    assert facts["formats"] == ".png (2), .webp (1)" and facts["labels"] == "none"


def test_something_else_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n")
    for source, words in ((tmp_path / "notes.md", "a text file"), (tmp_path / "nothing", "no such file or folder")):
        with pytest.raises(InputError, match=words):
            inspect(str(source))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["inspect", str(committed_file())])
    assert exit_.value.code == 0 and capsys.readouterr().out.startswith("what: checkpoint\n")
