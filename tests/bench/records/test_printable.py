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
    names = ["=1+1", "@x", "+cmd", "-cmd", "\tx", "'=y", "'z", "-1/+0.1", "a|b <script>", "one\rtwo", "a\\|b", "&lt;"]
    frame = pd.DataFrame({"name": names, "value": range(12)})
    write_table(frame, tmp_path, "t")
    # What a spreadsheet would run has a mark before it, which is gone when the table is read back.
    first = [line.split(",")[0].strip('"') for line in (tmp_path / "t.csv").read_bytes().decode().split("\n")[1:-1]]
    marked = {"=1+1", "@x", "+cmd", "-cmd", "\tx", "'=y"}
    assert first == [f"'{name}" if name in marked else name for name in names]
    assert read_table(tmp_path, "t")["name"].tolist() == names
    shown = to_markdown(frame).splitlines()[-4:]
    assert shown == [r"| a\|b &lt;script> | 8 |", "| one two | 9 |", r"| a\\\|b | 10 |", "| &amp;lt; | 11 |"]


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
