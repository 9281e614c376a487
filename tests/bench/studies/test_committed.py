"""The committed models of the digits: scored, and the paper's claims tried on them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bench.studies import committed
from bench.studies.committed import CommittedScores, quality_table, score_committed
from bench.studies.committed_findings import committed_findings
from bench.studies.samples import LAMBDAS, Sampling, compared_variants

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> CommittedScores:
    monkeypatch.setattr(committed, "RESAMPLES", 5)
    return score_committed(Sampling(images=40, steps=4))


def test_the_study_is_scored_and_judged(study: CommittedScores) -> None:
    table = quality_table(study)
    assert set(table["model"]) == {variant.name for variant in compared_variants()} | {"real digits, half against half"}
    named = table["metric"][table["metric"] != "FLOPs ratio"]
    assert named.str.endswith("[digits-cnn]").all()
    rows = {row.finding_id: row for row in committed_findings(study)}
    assert len(rows) == 5 * len(LAMBDAS)
    ratio = table.set_index(["model", "metric"]).loc[("DyDiT lambda=0.5", "FLOPs ratio"), "value"]
    reached = rows["digits-flops-ratio-0.5"]
    assert reached.measured == pytest.approx(ratio) and reached.low <= ratio <= reached.high
    assert reached.activity == pytest.approx(1 - ratio)
    random = rows["digits-fid-random-0.5"]
    assert random.verdict == "supported" and 0 < random.low < random.measured < random.high < 1
    assert all(row.seeds == 1 and "one training" in row.note for row in rows.values())


def test_routing_that_leaves_everything_open_exercises_nothing(study: CommittedScores) -> None:
    open_ = {
        name: score
        if score.rates is None
        else dataclasses.replace(score, rates=(0.99, 0.99, 1.0), flops_ratios=torch.full((40,), 0.99))
        for name, score in study.scores.items()
    }
    rows = committed_findings(dataclasses.replace(study, scores=open_))
    assert {row.verdict for row in rows} == {"not exercised"}
    assert all("1.00% of decisions" in row.note for row in rows)
