"""The worked example goes through the harnesses as a reader of docs/compare-your-method.md would send it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.records import read_table

ROOT = Path(__file__).parents[1]
EXAMPLE = "examples.every_other_block:model"
PAGE = ROOT / "docs" / "compare-your-method.md"


def bench(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_method_of_ones_own_takes_less_than_60_lines() -> None:
    assert len((ROOT / "examples" / "every_other_block.py").read_text(encoding="utf-8").splitlines()) < 60


def test_the_example_is_counted_as_it_claims(tmp_path: Path) -> None:
    bench("flops", "--model", EXAMPLE, "--steps", "5", "--images", "1", "--out", str(tmp_path))
    row = read_table(tmp_path, "flops").iloc[0]
    assert row["gap"] == pytest.approx(0.0, abs=1e-9)
    assert 0 < row["least_gmacs"] < row["most_gmacs"]


def test_images_of_the_example_do_not_depend_on_what_was_drawn_before(tmp_path: Path) -> None:
    drawn = []
    for images in ("2", "4"):
        out = tmp_path / images
        options = ("--steps", "4", "--images", images, "--unit", "2", "--out", str(out))
        bench("generate", "--model", EXAMPLE, *options)
        with np.load(out / "samples.npz") as file:
            drawn.append(file["arr_0"])
    assert np.array_equal(drawn[0], drawn[1][:2])


def test_the_page_names_commands_and_attributes_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ("begin_run", "claimed_macs", "routing", "in_channels", "input_size", "num_classes", EXAMPLE):
        assert name in text
