"""Images from .npz files and by name, and the quality command on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cli, digits, images, results
from dydit import InputError


def write(path: Path, array: np.ndarray, name: str = "arr_0") -> Path:
    np.savez(path, **{name: array})
    return path


def test_npz_comes_back_as_channels_first(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    loaded = images.load(write(tmp_path / "a.npz", array))
    assert loaded.dtype == torch.uint8 and loaded.shape == (5, 3, 4, 6)
    assert np.array_equal(loaded[2, 1].numpy(), array[2, :, :, 1])


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "arr_0"),
        (np.zeros((2, 4, 4), np.uint8), "arr_0"),
        (np.zeros((2, 3, 4, 4), np.uint8), "arr_0"),
        (np.zeros((2, 4, 4, 3), np.uint8), "images"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, name: str) -> None:
    with pytest.raises(InputError, match="arr_0"):
        images.load(write(tmp_path / "a.npz", array, name))


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.npz", np.zeros((2, 8, 8, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="no whole"):
        images.load(path)


def test_the_quality_command_scores_a_file_against_the_digits(tmp_path: Path) -> None:
    half = digits.load().images[::2].permute(0, 2, 3, 1).numpy()
    samples = write(tmp_path / "samples.npz", half)
    with pytest.raises(SystemExit) as done:
        cli.main(
            [
                "quality",
                "--samples",
                str(samples),
                "--reference",
                "digits",
                "--interval",
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert done.value.code == 0
    table = results.read_table(tmp_path / "out", "quality").set_index("metric")
    assert table.loc["precision[digits-cnn]", "value"] == 1.0
    fid = table.loc["FID[digits-cnn]"]
    assert 0 <= fid["low"] < fid["value"] < fid["high"] and fid["value"] < 20
    assert table.drop("FID[digits-cnn]")["low"].isna().all()
    assert (table["n_samples"] == len(half)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "nowhere.npz", "--reference", "digits"], "nowhere.npz"),
        (["--samples", "digits", "--reference", "digits", "--extractor", "vgg"], "digits-cnn, inception-v3-compat"),
        (["--samples", "digits", "--reference", "digits", "--extractor", "inception-v3-compat"], "weights"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["quality", *arguments, "--out", str(tmp_path / "out")])
    assert done.value.code == 2
    stderr = capsys.readouterr().err
    assert message in stderr and len(stderr.splitlines()) == 1
