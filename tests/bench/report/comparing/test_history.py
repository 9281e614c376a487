"""Headline numbers over the commits of a checkout."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.report.comparing.history import drawing, history
from bench.report.figures.drawing import svg_file
from dydit import InputError

MACHINE = "cpu-intel-xeon-2-cores"


@pytest.fixture
def checkout(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkout in which one run was measured twice, the second time at another commit and slower."""

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True
        )

    git("init", "-q")
    for day, commit, speedup in ((1, "a" * 40, 1.8), (2, "b" * 40, 1.75)):
        make_run(
            tmp_path / "results" / MACHINE / "all",
            speedup=speedup,
            commit=commit,
            started=f"2025-02-0{day}T10:00:00+00:00",
        )
        git("add", "-A")
        git("commit", "-q", "-m", "measured")
    return tmp_path


def test_every_committed_version_has_its_place(checkout: Path) -> None:
    frame = history(MACHINE, checkout / "results", checkout)
    speeds = frame[frame["number"].str.startswith("realised")]
    assert speeds[["value", "commit"]].to_numpy().tolist() == [[1.8, "a" * 12], [1.75, "b" * 12]]
    assert speeds["date"].tolist() == ["2025-02-01T10:00", "2025-02-02T10:00"]
    counts = frame[frame["number"] == "summary: reproduced"]["value"].tolist()
    assert counts == [1.0]  # the file did not change with the second run
    assert svg_file(drawing(frame)).count("<svg") == 1


def test_what_is_no_history_is_said(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match=f"no machine nvidia in results; there are: {MACHINE}"):
        history("nvidia", checkout / "results", checkout)
    apart = tmp_path_factory.mktemp("apart")
    with pytest.raises(InputError, match="not a git checkout"):
        history(None, apart / "results", apart)
