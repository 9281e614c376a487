"""At the size of a named network everything is counted and timed without weights, training or images."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench import cli
from bench.comparison.entries import AT_SCALE, parse_entries
from bench.comparison.job import ComparisonOptions
from bench.comparison.run import compare_methods
from bench.records import read_run, read_table
from dydit import model_config

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "DiT-S/8"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("scale")
    methods = (
        "dydit:0.4",
        "tome:0.5",
        "prune:diff:0.5",
        "static@ddim:1",
        "dydit:0.5,deepcache:2",
        "remove:0+5",
    )
    compare_methods(
        ComparisonOptions(out=directory, methods=methods, network=NAME, steps=2, batch=1, seconds=0.0, threads=1)
    )
    return directory


@pytest.fixture(scope="module")
def table(out: Path) -> pd.DataFrame:
    return read_table(out, "methods").set_index("method")


def test_executed_is_what_each_method_claims(table: pd.DataFrame) -> None:
    assert len(table) == 7 and table["gap"].dropna().abs().max() < 0.005
    # A DyDiT under a method skips by masks and by the method: no formula is claimed for it.
    assert table.index[table["gap"].isna()].tolist() == ["dydit:0.5,deepcache:2"]
    assert table.loc["static@ddim:1", "flops_ratio"] == 0.5
    assert table.loc["remove:0+5", "flops_ratio"] == pytest.approx(10 / 12, abs=0.01)
    half = table.loc["dydit:0.5,deepcache:2", "flops_ratio"]
    assert half < table.loc["dydit:0.4", "flops_ratio"] < 0.55


def test_nothing_is_scored_and_the_page_says_why(out: Path, table: pd.DataFrame) -> None:
    assert "FID" not in table and "front_time" not in table and (table["ms_median"] > 0).all()
    assert "Quality is not run" in (out / "methods.md").read_text(encoding="utf-8")
    record = read_run(out)
    assert (record["network"], record["weights"], record["routing"]) == (NAME, "random", "synthetic, even")
    assert (out / "methods.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["DiT-XL/2", "DiT-S/8"])
def test_the_defaults_fit_every_network(name: str) -> None:
    assert len(parse_entries(AT_SCALE, [], model_config(name), 50, trained=False)) == len(AT_SCALE)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--network", "DiT-XXL/2"], "unknown model 'DiT-XXL/2'"),
        (["--network", NAME, "--images", "20"], "--images 20: it is for the digits, not for --network DiT-S/8"),
        (["--network", NAME, "--methods", "control"], "it is the static network again"),
        (["--network", NAME, "--methods", "dydit:2"], "write dydit:LAMBDA"),
        (["--network", NAME, "--methods", "dydit"], "write dydit:LAMBDA"),
        (["--network", NAME, "--methods", "remove:12"], "layer 12"),
        (["--network", NAME, "--methods", "skip:/12"], "layer 12"),
        (["--network", NAME, "--methods", "prune:random:0.99"], "leaves none of 6 heads"),
        (["--network", NAME, "--methods", "dydit:0.5,tome:0.5"], "give a static DiT"),
        (["--network", NAME, "--model", "examples.every_other_block:model"], "static has in_channels = 4"),
        (["--network", NAME, "--resolution", "100"], "resolution 100 does not fit"),
        (["--network", NAME, "--dtype", "fp8"], "dtype 'fp8'"),
        (["--network", NAME, "--threads", "0"], "--threads 0"),
        (["--resolution", "512"], "--resolution 512: it needs --network NAME"),
        (["--device", "cuda"], "--device cuda: it needs --network NAME"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare-methods", "--out", str(tmp_path), *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and len(error.splitlines()) == 1 and part in error
