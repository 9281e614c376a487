"""The headline rows, with the digits study standing in for models, reference and extractor."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.claims import HEADLINE_ROWS
from bench.records import Results
from bench.reproduction import headline
from bench.reproduction.headline import Protocol, Released
from bench.studies.samples import committed_file
from dydit.errors import InputError

SMALL = Protocol(images=24, steps=2, vae=None, extractor="digits-cnn", reference="digits")
STUDY = tuple(
    Released(str(committed_file(target)), None, HEADLINE_ROWS[source])
    for target, source in ((0.7, "dydit-xl-2-lambda-0.7"), (None, "DiT-XL-2-256x256.pt"))
)
PAIR = "dydit-table1-dydit-xl-lambda-0.7-fid-50k-over-dit-xl"


def test_every_metric_of_every_model_gets_a_verdict_and_a_second_run_makes_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = headline.measure_headline(Results(tmp_path), "full", models=STUDY, protocol=SMALL)
    # Five metrics in the main comparison and the FID of Table 8 of each; what DiT prints of the static model; a pair.
    assert len(rows) == len({row.claim_id for row in rows}) == 2 * (5 + 1) + 5 + 5 + 1 + 1
    assert {row.verdict for row in rows if row.claim_id != PAIR} == {"deviates"}  # two steps are no ImageNet
    frame = pd.read_csv(tmp_path / "headline.csv")
    assert len(frame[frame["metric"] == "sFID[digits-cnn]"]) == 2

    def never(*_: object) -> None:
        raise AssertionError("a finished unit was made again")

    monkeypatch.setattr("bench.generation.generate.make_unit", never)
    again = headline.measure_headline(Results(tmp_path), "full", models=STUDY, protocol=SMALL)
    assert [row.measured for row in again] == [row.measured for row in rows]


def test_a_pair_is_judged_by_its_own_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model twice differs by nothing, its better by all, whatever the two absolute rows say."""
    static = STUDY[1]
    for ratio, verdict in (
        ((0.90, 0.85, 0.95), "reproduced"),
        ((1.1, 1.05, 1.2), "deviates"),
        ((1.0, 0.9, 1.1), "not run"),
    ):
        monkeypatch.setattr(headline, "paired_fid_ratio", lambda *_, ratio=ratio: ratio)
        pair = headline.measure_headline(Results(tmp_path), "full", models=STUDY, protocol=SMALL)[-1]
        assert (pair.claim_id, pair.verdict, pair.confidence) == (PAIR, verdict, "derived")
        assert pair.published == pytest.approx(2.12 / 2.27) and pair.metric == "FID-50K ratio"
        if verdict == "not run":
            assert pair.note.startswith("undecided: measured 1 [0.9, 1.1]") and pair.needs == "more images"
        else:
            assert (pair.measured, pair.low, pair.high) == ratio
    last = pd.read_csv(tmp_path / "headline.csv").iloc[-1]
    assert (last["model"], last["metric"]) == (f"DyDiT-XL lambda=0.7 / {static.row}", "FID ratio")
    assert (last["value"], last["low"], last["high"]) == (1.0, 0.9, 1.1)


def test_pairs_wait_for_what_the_full_tier_needs() -> None:
    rows = headline.unmeasured_pairs("smoke")
    assert [row.row.split(" / ")[0] for row in rows] == ["DyDiT-XL lambda=0.7", "DyDiT-XL lambda=0.5"]
    assert {row.verdict for row in rows} == {"not run"} and all("--tier full" in row.command for row in rows)


def test_all_that_is_missing_is_named_before_any_work(tmp_path: Path) -> None:
    models = (Released("absent.pt", "DiT-XL/2", STUDY[1].rows), *STUDY)
    with pytest.raises(InputError, match=r"absent\.pt") as caught:
        headline.measure_headline(Results(tmp_path / "out"), "full", tmp_path, models, SMALL)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
