"""Bad input: one line, exit status 2, and nothing written or trained before it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench import cli
from bench.studies.samples import committed_file
from dydit import DiT, checkpoint

DYNAMIC = committed_file(0.7)


@pytest.fixture
def folder(tmp_path: Path, pictures: Callable[..., Path]) -> Path:
    """Data of every kind that cannot be trained on."""
    pictures(tmp_path / "unlabelled", 12, classes=False)
    pictures(tmp_path / "small", 6)
    pictures(tmp_path / "colour", 12, grey=False)
    (tmp_path / "file").write_text("")
    for name, side in (("npz", 8), ("small-npz", 6)):
        labels = {"arr_1": np.array([0, 1])} if side < 8 else {}
        np.savez(tmp_path / name, arr_0=np.zeros((2, side, side, 1), np.uint8), **labels)
    return tmp_path


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--data {0}/unlabelled", "lies in no class folder"),
        ("--data {0}/npz.npz", "no class labels"),
        ("--data {0}/small", "6x6 pixels, smaller than the crop of 8x8"),
        ("--data {0}/small-npz.npz", "6x6 pixels, asked for 8x8"),
        ("--data {0}/colour", "colour"),
        ("--data nowhere", "no such file or folder"),
        ("--out {0}/file/out", "is a file"),
        ("--model DyDiT-S/2", "has depth = 4, DiT-S/2 has 12"),
        (f"--from {DYNAMIC} --ablation tdw-only", "holds the routers of a DyDiT, and a TdwOnly is to be trained"),
        ("--from nowhere.safetensors", "no such checkpoint"),
        ("--from {0}/file", "an empty file, not a checkpoint"),
        ("--ablation random", "needs --rates"),
        ("--ablation tdw-only --ablation sdt-only", "choose one"),
        ("--ablation tdw", "nearest names: tdw-only"),
        ("--ablation soft-gated", "choose a larger lambda"),
        ("--recipe released-xl-0.5 --batch 32 --ablation no-ordering", "not ordered anyway; leave it out"),
        ("--lambda 1.5", "--lambda 1.5: give a number in (0, 1]"),
        ("--recipe dydit-l-0.5", "unknown recipe"),
        ("--precision fp16", "fp32, bf16"),
        ("--tf32", "a CPU has no TF32"),
        ("--keep 0", "--keep 0"),
        ("--micro-batch 3", "batch_size 8 is not a multiple of micro_batch 3"),
        ("--shard", "torchrun --nproc-per-node"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    folder: Path, line: Callable[..., list[str]], refused: Callable[..., str], more: str, message: str
) -> None:
    out = folder / "out"
    assert message in refused(line(out, *more.format(folder).split()))
    assert not list(out.glob("*"))


def test_an_output_directory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[..., list[str]], refused: Callable[..., str]
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write anywhere
    assert f"output {tmp_path}: not writable (Permission denied)" in refused(line(tmp_path))


def other_sizes(path: Path) -> Path:
    """A static network of another width."""
    checkpoint.write(path, DiT(**checkpoint.load_model(DYNAMIC)[0].config.kwargs() | {"hidden_size": 48}))
    return path


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("--lambda 0.7", "recipe.target = 0.5"),
        ("--learning-rate 1e-3", "recipe.learning_rate"),
        ("--steps 4", "recipe.steps = 6"),
        ("--ablation tdw-only", "network = DyDiT"),
        ("--ablation static", "recipe.target = 0.5"),
        ("--ablation no-ordering", "ordered = True"),
        ("--precision bf16", "precision = fp32"),
        ("--from {0}/other.safetensors", "config.hidden_size = "),
        ("--data {0}/pictures", "data = digits"),
    ],
)
def test_another_run_is_not_gone_on_with(
    whole: Path,
    tmp_path: Path,
    line: Callable[..., list[str]],
    refused: Callable[..., str],
    pictures: Callable[..., Path],
    more: str,
    field: str,
) -> None:
    pictures(tmp_path / "pictures", 12)
    other_sizes(tmp_path / "other.safetensors")
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    error = refused(line(whole, *more.format(tmp_path).split()))
    assert field in error and error.endswith("choose another directory")
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


def test_without_a_recipe_steps_batch_and_lambda_are_asked_for(
    tmp_path: Path, static: str, refused: Callable[..., str]
) -> None:
    error = refused(["finetune", "--from", static, "--data", "digits", "--out", str(tmp_path), "--steps", "3"])
    assert "--recipe NAME" in error


def test_a_missing_tensorboard_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Callable[..., list[str]], refused: Callable[..., str]
) -> None:
    monkeypatch.setitem(cli.sys.modules, "tensorboard", None)
    assert "python -m pip install tensorboard" in refused(line(tmp_path, "--tensorboard"))
    assert not list(tmp_path.iterdir())
