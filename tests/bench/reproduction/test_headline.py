"""The headline rows, with the digits study standing in for models, reference and extractor."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.reproduction import headline
from bench.reproduction.headline import Protocol, Released
from bench.studies.samples import committed_file
from dydit.errors import InputError

SMALL = Protocol(images=24, steps=2, vae=None, extractor="digits-cnn", reference="digits")
STUDY = tuple(
    Released(str(committed_file(target)), None, row) for target, row in ((0.7, "DyDiT-XL lambda=0.7"), (None, "DiT-XL"))
)


def test_every_metric_of_every_model_gets_a_verdict_and_a_second_run_makes_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = headline.measure_headline(tmp_path, "full", models=STUDY, protocol=SMALL)
    assert len(rows) == len({row.claim_id for row in rows}) == 10
    assert {row.verdict for row in rows} == {"deviates"}  # two steps of a digits model are no ImageNet
    frame = pd.read_csv(tmp_path / "headline.csv")
    assert len(frame[frame["metric"] == "sFID[digits-cnn]"]) == 2

    def never(*_: object) -> None:
        raise AssertionError("a finished unit was made again")

    monkeypatch.setattr("bench.generation.generate.make_unit", never)
    again = headline.measure_headline(tmp_path, "full", models=STUDY, protocol=SMALL)
    assert [row.measured for row in again] == [row.measured for row in rows]


def test_all_that_is_missing_is_named_before_any_work(tmp_path: Path) -> None:
    models = (Released("absent.pt", "DiT-XL/2", "DiT-XL"), *STUDY)
    with pytest.raises(InputError, match=r"absent\.pt") as caught:
        headline.measure_headline(tmp_path / "out", "full", tmp_path, models, SMALL)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
