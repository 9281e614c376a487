"""Names and bytes as users have them: escaped where they are printed, recorded or tabled."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from bench import cli
from bench.records import portable, printable, read_run, read_table, to_markdown, write_table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café/äöü", "café/äöü"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("a\nb\tc\x1b[31m", r"a\nb\tc\x1b[31m"),
        ("", ""),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == portable(text) == shown
    printable(text).encode("utf-8")


def test_cells_are_no_formulas_and_no_markup(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["=1+1", "@x", "-1/+0.1", "a|b <script>"], "value": [1.0, 2.0, 3.0, 4.0]})
    write_table(frame, tmp_path, "t")
    assert read_table(tmp_path, "t")["name"].tolist() == ["'=1+1", "'@x", "-1/+0.1", "a|b <script>"]
    assert r"| a\|b &lt;script> | 4 |" in to_markdown(frame)


def test_a_folder_whose_name_is_not_utf_8_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    for number in range(4):
        Image.new("L", (8, 8), 60 * number).save(Path(os.fsdecode(folder)) / f"{number}.png")
    arguments = ["quality", "--samples", os.fsdecode(folder), "--reference", "digits", "--metrics", "FID"]
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments, "--resamples", "0", "--out", str(tmp_path / "out")])
    assert exit_.value.code == 0
    assert read_table(tmp_path / "out", "quality")["samples"].iloc[0].endswith(r"caf\xe9")
    assert read_run(tmp_path / "out")["samples"]["source"].endswith(r"caf\xe9")


def test_an_error_that_quotes_long_input_is_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["quality", "--samples", "x" * 100_000, "--reference", "digits", "--out", str(tmp_path / "out")])
    line = capsys.readouterr().err
    assert exit_.value.code == 2 and len(line) <= cli.LONGEST + 10 and line.endswith("characters)\n")
