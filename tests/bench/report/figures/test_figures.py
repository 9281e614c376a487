"""Figures show what stands in published tables and in the tables of runs, and are left out without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.claims import Tolerance, find_published, write_summary
from bench.claims.verdict import SummaryRow
from bench.records import Results, read_table, write_table
from bench.report.figures.catalogue import KINDS, draw_all
from bench.report.figures.drawing import Drawing
from bench.report.figures.learned import methods, training, widths
from bench.report.figures.pictures import pictures
from bench.report.figures.published import (
    FID,
    FID_RATIO,
    HERE,
    LEFT_OUT,
    LESS,
    SHARE,
    SPEEDUP,
    WORK,
    flops_front,
    time_front,
)
from bench.report.figures.speed import growth, parts, scores, speedup_front, time_by_lambda
from bench.report.runs import Run, load_runs

Make = Callable[..., Path]
Load = Callable[..., tuple[Run, ...]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Tables by name -> the one run that holds them."""

    def make(**tables: pd.DataFrame) -> tuple[Run, ...]:
        directory = tmp_path / "machine" / "run"
        directory.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            write_table(table, directory, name)
        return load_runs([directory], tmp_path)

    return make


def _row(drawing: Drawing, row: str) -> pd.Series:
    found = drawing.data[drawing.data["row"] == row]
    assert len(found) == 1
    return found.iloc[0]


def test_the_fronts_show_the_printed_numbers_against_their_own_baselines() -> None:
    work, time = flops_front([]), time_front([])
    shown = _row(work, "DyDiT-XL lambda=0.5")
    assert (shown[FID], shown[SHARE], shown[FID_RATIO]) == (2.07, 57.88 / 118.69, 2.07 / 2.27)
    assert shown[WORK] == pytest.approx(57.88e9 * 2 * 250 / 1e12, rel=1e-4)
    assert _row(time, "DyDiT-XL lambda=0.5")[SPEEDUP] == 1.73
    assert HERE not in set(work.data["series"]) and "The lowest FID of DyDiT, Table 8 is 2.07" in work.alt


def test_what_is_not_understood_is_named_and_not_drawn() -> None:
    for drawing in (flops_front([]), time_front([])):
        left = drawing.data[drawing.data[LEFT_OUT] != ""]
        assert "SODA Ns=72 (DDPM)" in set(left["row"]) and f"{len(left)} rows are left out" in drawing.caption
        made = drawing.draw(drawing.data)
        places = {tuple(point) for ax in made.axes for line in ax.get_lines() for point in line.get_xydata()}  # type: ignore[arg-type]
        assert not {(row[WORK], row[FID]) for _, row in left.iterrows()} & places


def test_a_measured_fid_joins_the_front(tmp_path: Path) -> None:
    published = find_published("dydit_iclr2025", table="Table 8", row="DyDiT-XL lambda=0.5", metric=FID)
    row = SummaryRow.judged(published, 2.11, Tolerance.symmetric(0.1, "other images"), "full", "quality.csv")
    (tmp_path / "run").mkdir()
    write_summary([row], Results(tmp_path / "run"))
    drawing = flops_front(load_runs([tmp_path / "run"], tmp_path))
    here = drawing.data[drawing.data["series"] == HERE]
    assert here[["row", FID, FID_RATIO]].to_numpy().tolist() == [["DyDiT-XL lambda=0.5, run", 2.11, 2.11 / 2.27]]
    assert "was measured here yet" not in drawing.caption


def test_measured_speed_ups_join_the_front(make_run: Make, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    methods_table = pd.DataFrame({"method": ["static", "tome:0.2"], "flops_ratio": [1.0, 0.8], "speedup": [1.0, 1.1]})
    write_table(methods_table, run, "methods")
    here = time_front(load_runs([run], tmp_path)).data.query("series == @HERE").set_index("row")
    assert here.loc["DyDiT-S/2 lambda=0.5", [LESS, SPEEDUP]].tolist() == [2.0, 1.8]
    assert here.loc["tome:0.2", [LESS, SPEEDUP]].tolist() == [1.25, 1.1]


def test_the_run_with_most_lambdas_is_shown(make_run: Make, tmp_path: Path) -> None:
    many, few = make_run(tmp_path / "many"), make_run(tmp_path / "few", speedup=1.5)
    table = read_table(many, "latency")
    more = table.iloc[-1:].assign(**{"lambda": 0.7, "speedup": 1.3, "flops_ratio": 0.7})
    write_table(pd.concat([table, more], ignore_index=True), many, "latency")
    drawing = speedup_front(load_runs([few, many], tmp_path))
    assert drawing is not None
    assert drawing.data["speedup"].tolist() == [1.8, 1.3]
    assert drawing.data["multiply-adds, static / realised"].tolist() == [2.0, 1 / 0.7]
    assert "1.80 times as fast for 2.00 times fewer multiply-adds; 1.54 was published" in drawing.alt


def test_time_by_lambda_needs_several(make_run: Make, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert time_by_lambda(load_runs([run], tmp_path)) is None
    table = read_table(run, "latency")
    more = [table.iloc[-1:].assign(**{"lambda": target, "ms_median": 100 * target}) for target in (0.9, 0.7, 0.3)]
    write_table(pd.concat([table, *more], ignore_index=True), run, "latency")
    drawing = time_by_lambda(load_runs([run], tmp_path))
    assert drawing is not None and "realised 30 ms at lambda 0.3 and 90 ms at 0.9" in drawing.alt


def test_growth_shows_the_even_profile_of_the_run_with_most_cases(make_run: Make, tmp_path: Path) -> None:
    few, many = (make_run(tmp_path / name) for name in ("few", "many"))
    table = pd.DataFrame({"model": "DiT-S/2", "tokens": 256, "batch": [1, 2, 1, 2], "dtype": "bf16"})
    table["engine"] = ["realised"] * 3 + ["static"]
    table["profile"] = ["even", "even", "token-heavy", None]
    table = table.assign(**{"lambda": 0.5}, speedup=[1.5, 1.6, 9.0, 1.0], speedup_low=1.4, speedup_high=1.7)
    write_table(table, many, "latency_growth")
    write_table(table[:1].assign(speedup=8.0), few, "latency_growth")
    drawing = growth(load_runs([few, many], tmp_path))
    assert drawing is not None and "from 1.50 to 1.60 times as fast" in drawing.alt
    assert "DiT-S/2 in bf16" in drawing.alt
    assert [ax.get_title() for ax in drawing.draw(drawing.data).axes] == ["DiT-S/2, bf16"]


def test_scores_stand_beside_torch_fidelitys(load: Load) -> None:
    table = pd.DataFrame({"pictures": [1000, 260], "images_per_s": [36.0, 30.0], "speedup": [2.0, 1.8]})
    table = table.assign(images_per_s_torch_fidelity=18.0, peak_mib=2000.0, peak_mib_torch_fidelity=3000.0)
    drawing = scores(load(quality_speed=table))
    assert drawing is not None and drawing.data["pictures"].tolist() == [260, 1000]
    assert "1000 pictures are scored at 36.0 pictures a second, 2.00 times torch-fidelity's rate" in drawing.alt
    assert [ax.get_ylabel() for ax in drawing.draw(drawing.data).axes] == ["pictures per second", "MiB"]


def test_parts_are_added_up(load: Load) -> None:
    table = pd.DataFrame({"model": "DiT-S/2", "lambda": 1.0, "batch": 1, "engine": "static", "part": ["MLP", "qkv"]})
    drawing = parts(load(latency_profile=table.assign(ms=[30.0, 12.0])))
    assert drawing is not None
    assert "static DiT-S/2 at lambda 1 takes 42 ms. The largest part is MLP." in drawing.alt


def test_widths_stand_at_the_middle_of_their_bins(load: Load) -> None:
    table = pd.DataFrame({"timesteps": ["900-999", "0-99"], "head_rate": [0.25, 1.0], "group_rate": [0.2, 1.0]})
    drawing = widths(load(routing_timesteps=table.assign(token_rate_conditional=1.0)))
    assert drawing is not None
    assert drawing.data["timestep"].tolist() == [949.5, 49.5] and "heads 25% to 100%" in drawing.alt


def test_methods_are_shown_at_the_usual_number_of_steps(load: Load) -> None:
    table = pd.DataFrame({"size": "m", "run": ["control", "both", "both"], "lambda": [None, 0.5, 0.5]})
    table = table.assign(steps=[25, 25, 250], ratio=[None, 0.5, 0.5]).assign(**{"FID[digits-cnn]": [40.0, 43.0, 9.0]})
    drawing = methods(load(means=table))
    assert drawing is not None
    assert drawing.data[["run", "ratio", "FID"]].to_numpy().tolist() == [["control", 1.0, 40.0], ["DyDiT", 0.5, 43.0]]


def test_training_curves_of_a_study_are_those_of_its_largest_dydit(load: Load) -> None:
    rows = [
        {"size": size, "run": run, "lambda": target, "seed": seed, "step": step, "loss": 10 * seed / step, "ratio": 0.5}
        for size, run, target in (("s", "both", 0.5), ("l", "both", 0.5), ("l", "control", None), ("m", "random", 0.5))
        for seed in (1, 3)
        for step in (25, 50)
    ]
    drawing = training(load(curves=pd.DataFrame(rows)))
    assert drawing is not None
    assert drawing.data["run"].tolist() == ["run: DyDiT lambda 0.5"] * 2 + ["run: control"] * 2
    assert drawing.data["loss"].tolist() == [0.8, 0.4] * 2


def test_training_curves_are_thinned(load: Load) -> None:
    steps = range(2000)
    drawing = training(load(log=pd.DataFrame({"step": steps, "loss": [1.0 / (1 + step) for step in steps]})))
    assert drawing is not None and len(drawing.data) == 400


def test_a_figure_without_data_names_the_command() -> None:
    problems: list[str] = []
    drawn, missing = draw_all([], problems)
    assert [drawing.kind.name for drawing, _ in drawn] == ["flops-fid", "time-fid"] and problems == []
    titles = {title for title, _ in missing}
    assert {"Token maps", "Sample grids, static beside dynamic", "Training curves"} < titles
    assert len(missing) == len(KINDS) - 2 + 2 and all("bench" in command or "nox" in command for _, command in missing)


def test_pictures_beyond_the_budget_have_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.report.figures.pictures.BUDGET", 10)
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"12345678")
    run = dataclasses.replace(Run("m/r", tmp_path), pictures=(tmp_path / "a.png", tmp_path / "b.png"))
    first, second = pictures([run])
    assert first.address.startswith("data:image/png;base64,") and second.address == ""
