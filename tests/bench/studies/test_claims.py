"""The study on digits: scores that are kept, intervals over seeds, verdicts and answers that follow from numbers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.studies import answers, scores
from bench.studies.catalogue import DIGITS, MIDDLE, SEEDS, STATIC
from bench.studies.claims import study_claims
from bench.studies.samples import DIRECTORY, load_stage
from bench.studies.scores import STEPS, sampler_steps, score_all
from bench.studies.spread import CONVERGED, Runs, Spread, means
from bench.studies.train import evaluated

pytestmark = pytest.mark.usefixtures("one_thread")

FID = "FID[digits-cnn]"


def runs(fid: dict[str, float] | None = None, noise: float = 0.0, ratio_off: float = 0.0) -> pd.DataFrame:
    """Scores of every stage: an FID by run (20 else), times a factor of its seed that all runs share, and noise."""
    source, rows = np.random.default_rng(0), []
    for stage in DIGITS.stages:
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
                    "FID": named * (1 + 0.1 * seed) * np.exp(noise * source.standard_normal()),
                }
            )
    return pd.DataFrame(rows)


def verdicts(frame: pd.DataFrame) -> dict[str, str]:
    return {row.claim_id: row.verdict for row in study_claims(frame)}


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


def test_every_claim_is_reproduced_where_it_holds_in_every_seed() -> None:
    fid = {"both": 20.0, "control": 21.0, "s both": 25.0, "s control": 20.0}
    fid |= dict.fromkeys(("tdw-only", "sdt-only", "random", "layer-skip", "no-ordering", "no-warmup"), 22.0)
    found = verdicts(runs(fid, noise=1e-4))
    assert len(found) == 19 and set(found.values()) == {"reproduced"}


def test_no_claim_of_a_difference_is_reproduced_within_the_seeds_spread() -> None:
    rows = study_claims(runs(noise=0.05))
    differences = [row for row in rows if "-ratio-" not in row.claim_id]
    assert {row.verdict for row in differences} == {"deviates"}
    assert sum("beyond the seeds' spread" in row.note for row in differences) >= len(differences) - 1


def test_a_difference_in_the_wrong_direction_deviates() -> None:
    found = verdicts(runs({"tdw-only": 10.0}, noise=1e-4))
    assert found["study-tdw-only-m"] == "deviates"


def test_one_run_that_missed_its_flops_target_fails_the_claim() -> None:
    found = verdicts(runs(ratio_off=0.02))
    assert found["study-ratio-0.7"] == "deviates" and found["study-ratio-0.5"] == "reproduced"


def test_answers_follow_from_the_numbers() -> None:
    fid = {"control": 20.0, "layer-skip-only": 30.0, "soft-gated": 18.0}
    table = answers.questions(runs(fid, noise=1e-4)).set_index("configurations")["answer"]
    assert table["size m: layer-skip-only-0.5 / both-0.5"].startswith("against both at lambda 0.5: FID 50.0% higher")
    assert table["size m: soft-gated-1.0 / control"].startswith("against control: FID 10.0% lower")
    vague = answers.questions(runs(noise=0.1))["answer"]
    assert vague.str.contains("FID no different").mean() > 0.7


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
    import torch

    from bench.data import preprocessing
    from bench.data.sets import digits
    from dydit.flops import flops_ratio

    model = load_stage("dydit-m-0.5-s1")
    data = digits.load_digits()
    loss, routing = evaluated(model, preprocessing.to_model(data.images), data.labels)
    assert routing is not None and 0.05 < loss < 0.15
    t = torch.arange(1000)
    x = torch.zeros(1000, 1, 8, 8)
    with torch.no_grad():
        exact = model.route(x, t, torch.zeros(1000, dtype=torch.int64))[1]  # type: ignore[operator]
    found = routing.head_rate.mean().item()
    assert found == pytest.approx(exact.head_rate.mean().item(), abs=0.01)
    assert flops_ratio(routing, model.config).mean().item() == pytest.approx(0.5, abs=CONVERGED)
