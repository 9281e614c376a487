"""The whole comparison at a size of seconds: paired, repeatable, resumed, and with a control that reads 0."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from bench import cli
from bench.comparison import job
from bench.comparison.entries import parse_entries, parse_entry
from bench.comparison.job import ComparisonOptions
from bench.comparison.run import compare_methods
from bench.comparison.sampled import build, draw_images
from bench.comparison.scores import Scoring, score_entries
from bench.comparison.stages import NETWORK, methods_study
from bench.comparison.table import methods_table, on_front
from bench.records import read_run, read_table
from bench.studies.samples import DIRECTORY
from bench.studies.scores import METRICS

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        # diffusers makes an array of a tensor, which NumPy 2 wants done with a copy keyword.
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    ),
]

METHODS = ("fora:2", "tome:0.5", "prune:magnitude:0.5", "dydit:0.5", "static@ddim:4")
OWN = "examples.every_other_block:model"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> ComparisonOptions:
    out = tmp_path_factory.mktemp("comparison")
    short = {"steps": 4, "images": 16, "seeds": (1,), "batch": 2, "seconds": 0.0, "shorten": 500, "processes": 1}
    return ComparisonOptions(out=out, methods=METHODS, model=(OWN,), **short)


@pytest.fixture(scope="module")
def table(options: ComparisonOptions) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[3])
        return compare_methods(options)


def test_every_method_has_a_row_and_static_is_the_first(options: ComparisonOptions, table: pd.DataFrame) -> None:
    assert table["method"].tolist() == ["static", *METHODS, OWN]
    assert read_table(options.out, "methods")["method"].tolist() == table["method"].tolist()
    assert (options.out / "methods.png").stat().st_size > 10_000
    assert set(read_run(options.out)["seconds"]) == {"training", "scoring", "timing"}


def test_static_is_what_the_others_are_held_against(table: pd.DataFrame) -> None:
    static = table.set_index("method").loc["static"]
    assert (static["flops_ratio"], static["speedup"], static["note"]) == (1.0, 1.0, "")
    assert (static["drift_mse"], static["drift_fid"]) == (0.0, 0.0)
    assert (table.set_index("method")["drift_mse"][["static@ddim:4", OWN]] > 0).all()


def test_what_is_executed_is_what_is_claimed(table: pd.DataFrame) -> None:
    rows = table.set_index("method")
    assert rows["gap"].abs().max() < 0.005
    assert rows.loc["static@ddim:4", "flops_ratio"] == pytest.approx(1.0)
    assert rows.loc["prune:magnitude:0.5", "parameters_m"] < rows.loc["static", "parameters_m"]


def test_a_second_run_trains_and_scores_nothing(options, table, monkeypatch, capsys) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("an image was drawn again")

    monkeypatch.chdir(Path(__file__).parents[3])
    monkeypatch.setattr("bench.comparison.scores.draw_images", never)
    again = compare_methods(options)
    assert read_run(options.out)["trained"] == 0
    assert again["FID"].equals(table["FID"]) and again["drift_mse"].equals(table["drift_mse"])


def test_scores_are_made_again_where_what_decides_them_changed(options, table, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    entries = parse_entries(METHODS[:1], [], NETWORK, options.steps)
    study = methods_study(entries, options.seeds)
    scoring = Scoring(study, options.out / "models", options.out / "scores", 12, (1,))
    assert score_entries(scoring, entries, 1)["images"].tolist() == [12, 12]
    score_entries(dataclasses.replace(scoring, images=options.images), entries, 1)


def test_shipped_weights_are_taken_and_not_trained(tmp_path: Path, monkeypatch) -> None:
    methods = ("control", "dydit:0.5", "taylorseer:2:1")
    small = {"steps": 3, "images": 10, "seeds": (1,), "batch": 1, "seconds": 0.0, "processes": 1}
    table = compare_methods(ComparisonOptions(out=tmp_path, methods=methods, **small))
    assert read_run(tmp_path)["trained"] == 0
    assert (tmp_path / "models" / "dit-m.safetensors").read_bytes() == (DIRECTORY / "dit-m.safetensors").read_bytes()
    drift = table.set_index("method")["drift_mse"]
    assert drift["static"] == 0 < drift["taylorseer:2:1"] and drift["control"] > 0


def test_the_front_is_what_nothing_beats() -> None:
    assert on_front([1.0, 2.0, 3.0, 2.0], [3.0, 2.0, 2.5, 2.0]) == [True, True, False, True]


def test_a_slow_method_gets_a_note_of_its_measured_parts() -> None:
    (entry,) = parse_entries([], [], NETWORK, 5)
    run = {"method": "slow", "efficiency": 0.5, "speedup": 1.0, "flops_ratio": 0.5, "ms_median": 10.0}
    run |= {"sampler_ms": 4.0, "network_speedup": 1.2, "executed_gmacs": 1.0}
    scores = pd.DataFrame([{"method": "static", "images": 2} | dict.fromkeys(METRICS, 1.0)])
    scores[["drift_mse", "drift_psnr", "drift_fid"]] = 0.0
    note = methods_table([entry], [run], scores).loc[0, "note"]
    assert "1.00 of 2.00" in note and "40% of the run" in note and "1.20 times" in note


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--steps", "0"], "--steps 0"),
        (["--images", "1"], "--images 1"),
        (["--seeds", "4"], "--seeds 4"),
        (["--methods", "fora:0"], "interval 0"),
        (["--methods", "fora"], "fora:INTERVAL"),
        (["--model", "examples.every_other_block:nothing"], "has no function nothing"),
    ],
)
def test_bad_input_is_one_line_before_any_training(
    tmp_path: Path, capsys, monkeypatch, arguments: list[str], part: str
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a training began")

    monkeypatch.chdir(Path(__file__).parents[3])
    monkeypatch.setattr(job, "train_all", never)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare-methods", "--out", str(tmp_path), *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and len(error.splitlines()) == 1 and part in error


@pytest.mark.parametrize("sampling", ["ddim:5", "dpm-solver++:5"])
def test_methods_with_state_go_with_every_sampler(sampling: str) -> None:
    """Interval 1 draws what the static model draws, so the steps are told as the sampler takes them."""
    drawn = {}
    for method in ("static", "fora:1", "taylorseer:2:1"):
        entry = parse_entry(f"{method}@{sampling}", NETWORK, 50)
        drawn[method], _ = draw_images(entry, build(entry, 1, DIRECTORY), 2, seed=1)
    assert (drawn["fora:1"].int() - drawn["static"].int()).abs().max() <= 1
    assert (drawn["taylorseer:2:1"].int() - drawn["static"].int()).abs().max() > 1
