"""The study on digits: scores that are kept, intervals over seeds, verdicts and answers that follow from numbers."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from bench.claims import RELEASED_LAMBDAS, published_fid_ratio, read_findings
from bench.records import environment_record, read_run, read_table, write_table
from bench.records.run_record import write_run
from bench.report.readme import committed_run
from bench.studies import answers, scores
from bench.studies.catalogue import DIGITS, FASHION, MIDDLE, SEEDS, STATIC, Study
from bench.studies.findings import EVIDENCE, KEPT, judge_again, study_findings
from bench.studies.samples import DIRECTORY, load_stage
from bench.studies.scores import STEPS, sampler_steps, score_all
from bench.studies.spread import CONVERGED, Runs, Spread, means
from bench.studies.train import evaluated, object_tokens
from dydit import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

FID = "FID[digits-cnn]"


def runs(
    fid: dict[str, float] | None = None, noise: float = 0.0, ratio_off: float = 0.0, study: Study = DIGITS
) -> pd.DataFrame:
    """Scores of every stage: an FID by run (20 else), times a factor of its seed that all runs share, and noise."""
    source, rows = np.random.default_rng(0), []
    for stage in study.stages:
        target = stage.recipe.target
        named = (fid or {}).get(f"{stage.size} {stage.run}", (fid or {}).get(stage.run, 20.0))
        seeds = SEEDS if stage.run == STATIC else [stage.recipe.seed]
        for seed, steps in itertools.product(seeds, sampler_steps(stage)):
            rows.append(
                {
                    "stage": stage.name,
                    "size": stage.size,
                    "run": stage.run,
                    "lambda": target,
                    "seed": seed,
                    "steps": steps,
                    "ratio": target and target + ratio_off * (stage.name == "dydit-l-0.7-s2"),
                    "sampled_ratio": target,
                    **dict.fromkeys(("heads", "groups", "tokens"), target),
                    "loss": 0.09,
                    **{"early_width": 0.4, "late_width": 0.6, "between_images": 0.2},
                    **{"objects": 0.1, "background": 0.2, "drift_psnr": 20.0, "drift_mse": 100 * (1 - (target or 0))},
                    "FID": named * (1 + 0.1 * seed) * np.exp(noise * source.standard_normal()),
                }
            )
    return pd.DataFrame(rows)


def verdicts(frame: pd.DataFrame) -> dict[str, str]:
    return {row.finding_id: row.verdict for row in study_findings(DIGITS, frame)}


def test_the_interval_is_students_on_the_logarithms() -> None:
    values = [1.1, 1.3, 0.9]
    spread, logs = Spread.of(values), np.log(values)
    expected = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert (spread.low, spread.high) == pytest.approx((np.exp(expected.low), np.exp(expected.high)))
    assert spread.mean == pytest.approx(stats.gmean(values))
    assert not spread.separated and Spread(1.1, 1.05, 1.2).separated and Spread(0.9, 0.8, 0.99).separated
    with pytest.raises(ValueError, match="no spread"):
        Spread.of([1.0])


def test_runs_are_compared_seed_by_seed() -> None:
    found = Runs(runs({"both": 22.0}))
    assert found.against_control("both", 0.5) == pytest.approx([1.1] * len(SEEDS))  # the seeds' own factor cancels
    assert found.over("both", 0.5, "tdw-only", 0.5) == pytest.approx([1.1] * len(SEEDS))
    assert found.over("both", 0.5, STATIC, None) == pytest.approx([1.1] * len(SEEDS))
    with pytest.raises(KeyError):
        found.values("both", 0.55, MIDDLE, "FID")


def test_means_hold_every_configuration_and_count_what_converged() -> None:
    frame = runs({"both": 22.0}, ratio_off=0.02)
    table = means(frame).set_index(["size", "run", "lambda", "steps"])
    assert len(table) == len(frame.groupby(["size", "run", "lambda", "steps"], dropna=False))
    row = table.loc[("l", "both", 0.7, STEPS)]
    assert (row["seeds"], row["converged"]) == (3, 2)
    assert row[FID] == pytest.approx(22 * 1.2) and row["FID_over_control"] == pytest.approx(1.1)


def test_every_claim_is_supported_where_it_holds_in_every_seed() -> None:
    fid = {"both": 20.0, "control": 20.4, "s both": 25.0, "s control": 20.0, "static": 22.0}
    fid |= dict.fromkeys(("tdw-only", "sdt-only", "random", "layer-skip", "no-ordering", "no-warmup"), 22.0)
    found = verdicts(runs(fid, noise=1e-4))
    assert len(found) == 21 and set(found.values()) == {"supported"}


def test_claims_within_the_seeds_spread_are_inconclusive() -> None:
    rows = [row for row in study_findings(DIGITS, runs(noise=0.1)) if "-ratio-" not in row.finding_id]
    assert {row.verdict for row in rows} == {"inconclusive"}
    assert all(row.low < 1 < row.high for row in rows)


def test_a_difference_in_the_wrong_direction_contradicts() -> None:
    found = verdicts(runs({"tdw-only": 10.0, "l control": 10.0}, noise=1e-4))
    assert found["study-tdw-only-m"] == "contradicted"
    assert found["study-kept-0.5"] == "contradicted"  # twice the control's FID


def test_quality_kept_needs_both_sides_of_its_margin() -> None:
    gains = [1 - published_fid_ratio(f"DyDiT-XL lambda={target}") for target in RELEASED_LAMBDAS]
    assert KEPT.at_most - 1 == pytest.approx(1 - KEPT.at_least) and 1 - KEPT.at_least < min(gains)
    better = verdicts(runs({"both": 18.0}, noise=1e-4))
    assert better["study-kept-0.5"] == "contradicted" and better["study-start-0.5"] == "supported"
    assert verdicts(runs({"both": 20.2}, noise=1e-4))["study-kept-0.5"] == "supported"


def test_runs_scattered_about_their_target_do_not_support_that_training_meets_it() -> None:
    rows = {row.finding_id: row for row in study_findings(DIGITS, runs(ratio_off=0.02))}
    assert rows["study-ratio-0.7"].verdict == "inconclusive" and rows["study-ratio-0.5"].verdict == "supported"
    assert "8 of 9 runs within 0.01 of lambda, the farthest dydit-l-0.7-s2 at 0.7200" in rows["study-ratio-0.7"].note


@pytest.mark.parametrize(("skipped", "exercised"), [(0.019, False), (0.021, True)])
def test_ablations_of_a_mechanism_that_slept_are_not_exercised(skipped: float, exercised: bool) -> None:
    """Whatever the intervals: nothing can be said of tokens that were never skipped."""
    frame = runs({"both": 20.0, "tdw-only": 30.0, "layer-skip": 30.0, "sdt-only": 30.0, "random": 30.0}, noise=1e-4)
    frame.loc[frame["run"] == "both", "tokens"] = 1 - skipped
    rows = {row.finding_id: row for row in study_findings(DIGITS, frame)}
    about_tokens = {
        "study-tdw-only-m",
        "study-tdw-only-l",
        "study-sdt-only-m",
        "study-sdt-only-l",
        "study-layer-skip-m",
    }
    for name in about_tokens:
        assert rows[name].verdict == ("supported" if exercised else "not exercised")
        assert rows[name].activity == pytest.approx(skipped) and "tokens skipped by DyDiT" in rows[name].mechanism
    assert {row.verdict for name, row in rows.items() if name not in about_tokens} <= {"supported", "inconclusive"}
    assert rows["study-random-m"].verdict == "supported"  # a claim about widths, which act
    table = answers.questions(
        DIGITS, frame.assign(tokens=frame["tokens"].where(frame["run"] != "token-skip-attention", 0.995))
    )
    answer = table.set_index("question").loc["Does attention need every token?", "answer"]
    assert answer == "not exercised (tokens skipped by token-skip-attention: 0.50% of decisions)"


def test_the_committed_study_says_what_its_numbers_say() -> None:
    """The cases that an earlier version judged by tolerances that decided nothing."""
    rows = {row.finding_id: row for row in study_findings(DIGITS, read_table(committed_run("study"), "runs"))}
    assert rows["study-random-m"].verdict == "supported"
    assert rows["study-kept-0.5"].verdict == rows["study-kept-0.7"].verdict == "inconclusive"
    start = rows["study-start-0.5"]
    assert start.verdict == "contradicted"
    assert (start.measured, start.low, start.high) == pytest.approx((1.128, 1.039, 1.225), abs=5e-4)
    assert rows["study-layer-skip-m"].verdict == "not exercised"  # those routers never learned to skip
    for name in ("study-tdw-only-m", "study-sdt-only-m"):
        assert rows[name].verdict == "inconclusive"
    assert {row.evidence for row in rows.values()} == {EVIDENCE}


def test_a_finished_run_is_judged_again_from_its_table(tmp_path: Path) -> None:
    write_table(runs({"both": 20.0, "random": 30.0}, noise=1e-4), tmp_path, "runs")
    write_run(environment_record(), tmp_path)
    findings = judge_again(tmp_path)
    assert read_findings(tmp_path) == tuple(findings)
    assert (tmp_path / "questions.csv").is_file() and (tmp_path / "means.csv").is_file()
    assert set(read_run(tmp_path)["judged"]) == {"command", "started", "commit", "dirty"}
    write_table(read_table(tmp_path, "runs").query("stage != 'dydit-m-0.5-s1'"), tmp_path, "runs")
    with pytest.raises(
        InputError, match=r"runs\.csv: 1 models of the study digits are missing, such as dydit-m-0\.5-s1"
    ):
        judge_again(tmp_path)


def test_the_interval_of_one_more_run_is_wider_than_that_of_the_mean() -> None:
    values = [0.70, 0.71, 0.69, 0.705]
    more = Spread.of_one_more(values)
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * np.sqrt(1.25)
    assert more.interval == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_answers_follow_from_the_numbers() -> None:
    fid = {"control": 20.0, "layer-skip-only": 30.0, "soft-gated": 18.0}
    table = answers.questions(DIGITS, runs(fid, noise=1e-4)).set_index("configurations")["answer"]
    skipping = table["size m: layer-skip-only at lambda 0.5 / DyDiT at lambda 0.5"]
    assert skipping.startswith("against DyDiT at lambda 0.5: FID 50.0% higher")
    assert table["size m: soft-gated at lambda 1.0 / control"].startswith("against control: FID 10.0% lower")
    vague = answers.questions(DIGITS, runs(noise=0.1))["answer"]
    assert vague.str.contains("FID undecided, -").mean() > 0.7


def test_scores_are_kept_and_made_again_for_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "STEPS", 3)
    monkeypatch.setattr(scores, "SAMPLER_STEPS", (2,))
    for name in ("dit-m", "dydit-m-0.5-s1", "digits_cnn"):
        (tmp_path / f"{name}.safetensors").symlink_to(DIRECTORY / f"{name}.safetensors")
    study = DIGITS.only(["dydit-m-0.5-s1"])
    frame = score_all(study, tmp_path, images=32)
    assert frame["stage"].tolist() == ["dit-m"] * 3 + ["dydit-m-0.5-s1"] * 2
    assert frame["steps"].tolist() == [3, 3, 3, 3, 2] and frame["seed"].tolist() == [1, 2, 3, 1, 1]
    last = frame.iloc[-1]
    assert last["ratio"] == pytest.approx(0.5, abs=CONVERGED) and 0.15 < last["sampled_ratio"] < 0.9
    assert (frame[["loss", "FID"]] > 0).all(axis=None) and pd.isna(frame["ratio"].iloc[0])

    dynamic = frame[frame["stage"] == "dydit-m-0.5-s1"]
    assert dynamic["drift_mse"].notna().tolist() == [True, False] and dynamic["drift_psnr"].iloc[0] < 60
    assert dynamic[["objects", "background"]].ge(0).all(axis=None) and frame["drift_mse"].isna()[:3].all()
    quarters = scores.quarters_table(study, tmp_path)
    assert quarters["quarter"].tolist() == [1, 2, 3, 4] and (quarters["stage"] == "dydit-m-0.5-s1").all()
    assert quarters[["heads", "groups"]].mean().mean() == pytest.approx(last[["heads", "groups"]].mean(), abs=0.01)
    widths = quarters.set_index("quarter")[["heads", "groups"]].mean(axis=1)
    assert (last["early_width"], last["late_width"]) == pytest.approx((widths[4], widths[1]))

    kept = tmp_path / "scores" / "dydit-m-0.5-s1.json"
    before = kept.stat().st_mtime_ns
    again = score_all(study, tmp_path, images=32)
    pd.testing.assert_frame_equal(again, frame)
    assert kept.stat().st_mtime_ns == before
    record = json.loads(kept.read_text())
    record["identity"]["checkpoint_sha256"] = "other"
    kept.write_text(json.dumps(record))
    pd.testing.assert_frame_equal(score_all(study, tmp_path, images=32), frame)
    assert kept.stat().st_mtime_ns != before


def test_the_ratio_of_the_scores_is_that_of_all_timesteps() -> None:
    """The masks of widths are a function of the timestep alone: the exact mean over all 1000 agrees."""
    from bench.data import preprocessing
    from bench.data.sets import digits
    from dydit.flops import flops_ratio

    model = load_stage("dydit-m-0.5-s1")
    data = digits.load_digits()
    loss, routing, _, _ = evaluated(model, preprocessing.to_model(data.images), data.labels)
    assert routing is not None and 0.05 < loss < 0.15
    t = torch.arange(1000)
    x = torch.zeros(1000, 1, 8, 8)
    with torch.no_grad():
        exact = model.route(x, t, torch.zeros(1000, dtype=torch.int64))[1]  # type: ignore[operator]
    found = routing.head_rate.mean().item()
    assert found == pytest.approx(exact.head_rate.mean().item(), abs=0.01)
    assert flops_ratio(routing, model.config).mean().item() == pytest.approx(0.5, abs=CONVERGED)


def test_the_study_on_clothes_is_judged_by_its_own_extractor_and_size(tmp_path: Path) -> None:
    frame = runs({"both": 18.0}, study=FASHION)
    rows = {row.finding_id: row for row in study_findings(FASHION, frame)}
    assert {name for name, row in rows.items() if row.verdict == "supported"} == {
        *("fashion-drift", "fashion-objects-0.7", "fashion-objects-0.5", "fashion-width-0.7", "fashion-width-0.5"),
        *("fashion-start-0.7", "fashion-start-0.5", "fashion-ratio-0.7", "fashion-ratio-0.5"),
        *(f"fashion-{run}-f" for run in ("tdw-only", "sdt-only", "random", "layer-skip", "token-skip-attention")),
    }
    assert all(
        "FID[fashion-cnn]" in row.quantity
        for name, row in rows.items()
        if not re.search("ratio|drift|objects|width", name)
    )
    write_table(frame, tmp_path, "runs")
    write_run(environment_record(), tmp_path)
    assert [row.finding_id for row in judge_again(tmp_path)] == list(rows)
    assert read_table(tmp_path, "means")["FID[fashion-cnn]"].notna().all()
    answered = read_table(tmp_path, "questions").set_index("configurations")
    assert answered["FID[fashion-cnn] ratio"].notna().all()
    slow = answered.loc["size f: router-rate-1 at lambda 0.5 / DyDiT at lambda 0.5", "answer"]
    assert "FID 11.1% higher" in slow and "tokens open 0.5000, deviation between images 0.200; in DyDiT" in slow


def test_tokens_of_the_object_hold_more_than_background() -> None:
    x = torch.full((2, 1, 8, 8), -1.0)
    x[0, 0, 5, 2] = 0.3  # row 2, column 1 of the tokens of 2 x 2 pixels
    x[1, 0, 0, 7] = -0.95
    objects = object_tokens(x, 2)
    assert objects.nonzero().tolist() == [[0, 2 * 4 + 1]]
