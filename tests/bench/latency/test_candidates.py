"""Networks of anyone, timed in turns and held against the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.latency import run
from bench.latency.run import LatencyRunOptions, run_latency
from bench.machine import Budget
from bench.records import read_table
from dydit import InputError

BASE, MINE = "examples.every_other_block:base", "examples.every_other_block:model"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Budget", lambda seconds: Budget(seconds=0, least=2, most=2, warmup=0))
    monkeypatch.chdir(Path(__file__).parents[3])


def test_the_first_network_is_the_base_of_the_others(tmp_path: Path) -> None:
    run_latency(LatencyRunOptions(model=(BASE, MINE), batch=(1, 2), steps=4, out=tmp_path))
    table = read_table(tmp_path, "latency")
    assert table["model"].tolist() == [BASE, MINE] * 2
    base, mine = table.iloc[0], table.iloc[1]
    assert (table["base"] == BASE).all() and (table["matmul_share"] > 0).all()
    assert (base["speedup"], base["flops_ratio"], base["claimed_ratio"]) == (1.0, 1.0, 1.0)
    assert mine["flops_ratio"] == pytest.approx(mine["claimed_ratio"], rel=0.005)
    assert mine["flops_ratio"] == pytest.approx(0.75, abs=0.01)  # half of the blocks on half of the steps
    assert mine["efficiency"] == pytest.approx(mine["speedup"] * mine["flops_ratio"])


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model": (BASE, BASE)}, "given twice"),
        ({"model": ("examples.every_other_block:none",)}, "has no function none"),
        ({"model": (BASE,), "checkpoint": "file"}, "leave one out"),
        ({"model": (BASE,), "steps": 0}, "steps 0"),
        ({"model": (BASE,), "dtype": "fp8"}, "dtype 'fp8'"),
    ],
)
def test_what_cannot_be_timed_is_refused(tmp_path: Path, options, part: str) -> None:
    with pytest.raises(InputError, match=part):
        run_latency(LatencyRunOptions(**{"batch": (1,), "steps": 4, "out": tmp_path, **options}))
