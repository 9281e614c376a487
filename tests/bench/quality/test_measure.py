from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.data import image_set
from bench.data.image_set import Images
from bench.data.sets import digits
from bench.quality import settings
from bench.quality.features import classifiers, extraction
from bench.quality.measure import Quality, evaluate, extract, measure_quality
from bench.quality.metrics import inception_score, moments
from bench.quality.opening import open_reference
from bench.quality.passes import read_samples
from bench.quality.references.build import build_reference
from bench.quality.references.reference import Reference, write_reference
from bench.records import checksums
from dydit.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = digits.load_digits()
LAYERS = ["64", "spatial", "logits_unbiased"]


def noisy(pixels: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(2))
    return (pixels + sigma * noise).clamp(0, 255).to(torch.uint8)


ORDER = torch.randperm(1797, generator=torch.Generator().manual_seed(1))
REAL = DIGITS.images[ORDER[300:500]]
MADE = torch.cat([noisy(REAL[:70], 60), noisy(DIGITS.images[ORDER[:80]], 60)])
VALUES = ["FID", "sFID", "IS", "IS_std", "IS_all", "precision", "recall", "KID", "KID_std"]
RECORD = {"dataset": "digits", "split": "all", "preprocessing": "native"}


def named(pixels: Tensor, name: str = "made") -> Images:
    return image_set.of_tensor(pixels, name)


def values(measured: Quality) -> dict[str, float]:
    return {value.metric: value.value for value in measured.values}


@pytest.fixture(scope="module")
def real() -> Reference:
    return build_reference(named(REAL), "digits-cnn", name="real digits", record=RECORD)


def test_torch_fidelity_measures_the_same(real: Reference, by_torch_fidelity: Callable[..., dict[str, float]]) -> None:
    """Its own extraction and metrics, from images to numbers."""
    extraction.register()
    theirs = by_torch_fidelity(
        named(MADE), named(REAL), "digits-cnn", classifiers.DIGITS.weights, fid=True, isc_splits=10, kid_subset_size=150
    )
    ours = measure_quality(named(MADE), real, resamples=0)
    assert list(values(ours)) == VALUES
    for metric, key, rtol in (
        ("FID", "frechet_inception_distance", 1e-6),
        ("IS", "inception_score_mean", 1e-9),
        ("IS_std", "inception_score_std", 1e-9),
        ("precision", "precision", 1e-6),
        ("recall", "recall", 1e-6),
        ("KID", "kernel_inception_distance_mean", 1e-5),  # the rows of a reference are float32
        ("KID_std", "kernel_inception_distance_std", 1e-5),
    ):
        np.testing.assert_allclose(ours[metric].value, theirs[key], rtol=rtol, err_msg=metric)
    assert 0.1 < ours["precision"].value < 0.95 and ours["precision"].value != ours["recall"].value


def test_sfid_is_the_distance_of_the_spatial_features(real: Reference) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.utils import get_featuresdict_from_dataset

    network = extraction.open_network("digits-cnn", None, ["spatial"], "cpu")
    with torch.random.fork_rng(devices=[]):
        made, true = (
            fid_features_to_statistics(
                get_featuresdict_from_dataset(named(x), network, 50, False, True, False)["spatial"]
            )
            for x in (MADE, REAL)
        )
    theirs = fid_statistics_to_metric(made, true, verbose=False)["frechet_inception_distance"]
    ours = measure_quality(named(MADE), real, metrics=["sFID"], resamples=0)
    assert list(values(ours)) == ["sFID"]
    np.testing.assert_allclose(ours["sFID"].value, theirs, rtol=1e-6)


def test_statistics_from_a_file_and_images_give_the_same_numbers(real: Reference, tmp_path: Path) -> None:
    write_reference(tmp_path / "real.npz", real)
    stored = open_reference(str(tmp_path / "real.npz"), None, (8, 8))
    assert isinstance(stored, Reference)
    by_file, by_images = (
        values(measure_quality(named(MADE), against, resamples=0)) for against in (stored, named(REAL))
    )
    assert by_file == pytest.approx(by_images, rel=1e-9) and len(by_file) == len(VALUES)


def test_one_pass_over_each_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[int]] = {"made": [], "real": []}

    def counted(pixels: Tensor, name: str) -> Images:
        def read(index: int) -> Tensor:
            seen[name].append(index)
            return pixels[index]

        return Images(name, (8, 8), len(pixels), read)

    asked: list[list[str]] = []
    stream = extraction.stream_features
    monkeypatch.setattr(
        extraction,
        "stream_features",
        lambda images, name, layers, *rest, **more: asked.append(layers) or stream(images, name, layers, *rest, **more),
    )
    measure_quality(counted(MADE[:60], "made"), counted(REAL[:70], "real"), resamples=3)
    assert seen == {"made": list(range(60)), "real": list(range(70))} and len(asked) == 2


def test_rows_are_kept_only_where_something_needs_them() -> None:
    def kept(metrics: set[str], resamples: int) -> tuple[set[str], set[str]]:
        chosen = settings.check_settings("digits-cnn", sorted(metrics), 64, resamples, 0, "float64")
        features = read_samples(chosen, chosen.spec.weights(), named(MADE[:40]))
        return set(features.statistics), set(features.rows)

    assert kept({"FID", "sFID", "IS"}, 0) == ({"64", "spatial"}, set())
    assert kept({"FID", "sFID", "IS"}, 5) == ({"64", "spatial"}, set(LAYERS))
    assert kept({"precision"}, 0) == (set(), {"64"})
    assert kept({"IS"}, 0) == (set(), set())


def test_batch_size_changes_nothing(real: Reference) -> None:
    one, other = (values(measure_quality(named(MADE), real, batch_size=n, resamples=0)) for n in (7, 400))
    assert one == pytest.approx(other, rel=1e-9)


def test_identical_sets_and_degraded_ones(real: Reference) -> None:
    same = measure_quality(named(REAL), real, metrics=["FID", "sFID", "precision", "recall"], resamples=0)
    assert same["FID"].value < 1e-6 and same["sFID"].value < 1e-6
    assert (same["precision"].value, same["recall"].value) == (1.0, 1.0)
    clean = DIGITS.images[ORDER[:150]]
    measured = [values(measure_quality(named(noisy(clean, sigma)), real, resamples=0)) for sigma in (0.0, 60.0, 120.0)]
    for metric in ("FID", "sFID", "KID"):
        assert measured[0][metric] < measured[1][metric] < measured[2][metric], metric
    for metric in ("IS", "precision"):
        assert measured[0][metric] > measured[1][metric] > measured[2][metric], metric


def test_equal_sets_have_full_precision_and_recall_whatever_they_show() -> None:
    """The rows of a reference are float32, the features of the samples float64 as they come from the network."""
    black = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    for pixels in (black, torch.full_like(black, 200), REAL[:1].repeat(20, 1, 1, 1), REAL):
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        measured = measure_quality(named(pixels[order]), named(pixels), metrics=["precision", "KID"], resamples=2)
        assert measured["precision"].value == 1.0
        assert f"{len(pixels)} of {len(pixels)} samples are among" in measured["KID"].note
        assert measured["KID"].value <= 1e-9  # unbiased: pairs of an image with itself count between the sets alone


def test_intervals_say_when_both_sets_share_images(real: Reference) -> None:
    mixed = torch.cat([MADE, REAL[:7]])
    measured = measure_quality(named(mixed), real, resamples=2)
    for value in measured.values:
        assert ("7 of 157 samples are among the 200" in value.note) == (not value.metric.startswith("IS"))
    apart = measure_quality(named(MADE), real, resamples=2)
    assert not any("among the" in value.note for value in apart.values)


def test_distances_of_the_adm_evaluator_are_a_choice_that_is_recorded(real: Reference) -> None:
    exact, adm = (
        measure_quality(named(MADE), real, metrics=["precision", "recall"], resamples=0, distances=kind)
        for kind in ("float64", "adm-float16")
    )
    default = measure_quality(named(MADE), real, metrics=["precision", "recall"], resamples=0)
    assert default == exact and [row["note"] for row in adm.rows()] == ["k = 3, distances in adm-float16"] * 2
    assert values(adm) == pytest.approx(values(exact), abs=0.02)


def test_one_image_repeated_is_named_with_every_value_and_has_no_interval_of_the_fid(real: Reference) -> None:
    measured = measure_quality(named(REAL[:1].expand(100, -1, -1, -1)), real, resamples=4)
    assert [value.metric for value in measured.values] == VALUES  # no extrapolation, and no number of images
    assert all("warning: all 100 samples have the same features" in value.note for value in measured.values)
    assert measured["FID"].low is None and "to the extractor all samples are of class" in measured["IS"].note
    others = measure_quality(named(torch.cat([REAL[:1].expand(99, -1, -1, -1), REAL[1:2]])), real, resamples=0)
    assert not any("same features" in value.note for value in others.values)


def test_one_class_is_precise_but_covers_little() -> None:
    zeros, others = DIGITS.images[DIGITS.labels == 0], DIGITS.images[DIGITS.labels != 8]
    measured = evaluate(zeros, others)
    assert list(values(measured)) == ["FID", "IS", "IS_std", "IS_all", "precision", "recall", "KID", "KID_std"]
    assert measured["precision"].value > 0.95 and measured["recall"].value < 0.3 and measured["IS"].value < 3.0


def test_splits_are_taken_in_sample_order_and_said(real: Reference) -> None:
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    one, other = (measure_quality(named(x), real, metrics=["IS"], resamples=0) for x in (MADE, MADE[order]))
    assert one["IS"].value != pytest.approx(other["IS"].value, rel=1e-6)
    assert one["IS"].splits == 10 and "splits of 15" in one["IS"].note and "5000" in one["IS"].note
    logits = extract(MADE, ["logits_unbiased"])["logits_unbiased"]
    expected = inception_score.inception_score(logits.softmax(1).numpy(), 15)
    assert (one["IS"].value, one["IS_std"].value) == pytest.approx(expected, rel=1e-12)


def test_intervals_belong_to_their_values(real: Reference) -> None:
    measured = measure_quality(named(MADE), real, resamples=8)
    for metric in ("FID", "sFID", "IS", "precision", "recall", "KID"):
        value = measured[metric]
        assert value.low is not None and value.high is not None and value.std is not None
        assert value.low < value.value < value.high and value.std > 0, metric
    infinity, needed = measured["FID-infinity"], measured["images_for_0.1"]
    assert infinity.low is not None and infinity.high is not None
    assert infinity.low < infinity.value < infinity.high and infinity.value != measured["FID"].value
    assert needed.value == int(needed.value) > 150
    assert [value.metric for value in measured.values][:3] == ["FID", "FID-infinity", "images_for_0.1"]
    again = measure_quality(named(MADE), real, resamples=8)
    assert again == measured != measure_quality(named(MADE), real, resamples=8, seed=1)


def test_few_images_have_no_extrapolation_and_say_so(real: Reference) -> None:
    measured = measure_quality(named(MADE[:20]), real, metrics=["FID"], resamples=2)
    assert list(values(measured)) == ["FID", "images_for_0.1"] and "20 images for 64 features" in measured["FID"].note


def test_intervals_come_unasked_for_few_features_only(real: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "RESAMPLES", 3)
    assert measure_quality(named(MADE), real, metrics=["FID"])["FID"].low is not None
    monkeypatch.setattr(settings, "FEW_DIMENSIONS", 63)
    assert measure_quality(named(MADE), real, metrics=["FID"])["FID"].low is None


def test_it_is_quiet_writes_nothing_and_draws_nothing(
    real: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    before = torch.get_rng_state()
    measure_quality(named(MADE), real, resamples=2)
    assert torch.equal(before, torch.get_rng_state())
    assert capfd.readouterr() == ("", "") and not list(tmp_path.rglob("*"))


def test_colour_images_are_read_as_their_grey() -> None:
    pixels = DIGITS.images[:12]
    grey, colour = (extract(x, ["64"])["64"] for x in (pixels, pixels.repeat(1, 3, 1, 1)))
    assert torch.equal(grey, colour)


def test_rows_name_the_extractor_and_carry_evidence(real: Reference) -> None:
    rows = {row["metric"]: row for row in measure_quality(named(MADE), real, resamples=2).rows()}
    with_intervals = ["FID", "FID-infinity", "images_for_0.1", *VALUES[1:]]
    assert list(rows) == [f"{name}[digits-cnn]" for name in with_intervals]
    for metric, row in rows.items():
        assert (row["samples"], row["reference"], row["n_samples"]) == ("made", "real digits", 150)
        assert row["n_reference"] == (None if metric.startswith("IS") else 200)
        assert row["extractor"] == "digits-cnn" and row["arithmetic"].startswith("float64 on ")
        assert row["weights_sha256"] == checksums.file_sha256(classifiers.DIGITS.weights)


# What does not belong together


def test_a_reference_by_another_extractor_is_refused(real: Reference) -> None:
    other = dataclasses.replace(real, extractor="inception-v3-compat")
    with pytest.raises(InputError) as caught:
        measure_quality(named(MADE), other)
    assert "inception-v3-compat" in str(caught.value) and "digits-cnn" in str(caught.value)
    short = dataclasses.replace(real, extractor=None, pool=moments.of_features(np.eye(5)))
    with pytest.raises(
        InputError, match="another extractor than digits-cnn: it has 5 features where digits-cnn has 64"
    ):
        measure_quality(named(MADE), short)
    with pytest.raises(
        InputError, match=f"real digits was made with weights of SHA-256 {'0' * 64}, .*{classifiers.DIGITS.weights}"
    ):
        measure_quality(named(MADE), dataclasses.replace(real, record={"weights_sha256": "0" * 64}))


def test_a_reference_of_another_resolution_is_refused(real: Reference, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="made has 8x8 pixels, real digits has 16x16 pixels"):
        measure_quality(named(MADE), dataclasses.replace(real, size=(16, 16)))
    small, large = (
        named(torch.zeros(12, 3, 16, 16, dtype=torch.uint8)),
        named(torch.zeros(12, 3, 16, 32, dtype=torch.uint8)),
    )
    with pytest.raises(InputError, match="one resolution"):
        measure_quality(small, large, extractor="inception-v3-compat", weights=tmp_path / "never opened")
    with pytest.raises(InputError, match="made: 16x16 pixels; digits-cnn takes 8x8"):
        measure_quality(small, small)


def test_a_reference_without_what_a_metric_needs_is_refused(real: Reference) -> None:
    bare = dataclasses.replace(real, spatial=None, rows=None)
    with pytest.raises(InputError, match="no mu_s and sigma_s, which sFID needs"):
        measure_quality(named(MADE), bare)
    with pytest.raises(InputError, match="neither features nor images, which KID, recall need"):
        measure_quality(named(MADE), bare, metrics=["recall", "FID", "KID"])
    assert list(values(measure_quality(named(MADE), bare, metrics=["FID", "IS"], resamples=0))) == [
        "FID",
        "IS",
        "IS_std",
        "IS_all",
    ]
    with pytest.raises(InputError, match="reference real digits: 3 images; precision needs at least 4"):
        measure_quality(named(MADE), dataclasses.replace(real, rows=real.rows[:3] if real.rows is not None else None))


def test_images_of_an_adm_file_serve_where_it_has_no_features(real: Reference) -> None:
    """The pool statistics are over a whole data set, the images 120 of it."""
    adm = dataclasses.replace(real, extractor=None, rows=None, images=named(REAL[:120], "arr_0"))
    measured = measure_quality(named(MADE), adm, resamples=0)
    by_rows = measure_quality(named(MADE), named(REAL[:120]), resamples=0)
    for metric in ("precision", "recall", "KID"):
        assert measured[metric].value == pytest.approx(by_rows[metric].value, rel=1e-5), metric
        assert measured[metric].n_reference == 120
    assert measured["FID"].n_reference == 200 and measured["FID"].value != by_rows["FID"].value
    unknown = dataclasses.replace(real, pool=dataclasses.replace(real.pool, count=0))
    assert measure_quality(named(MADE), unknown, metrics=["FID"], resamples=0)["FID"].n_reference is None


def test_features_that_are_not_finite_name_the_samples(real: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverged(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
            return (torch.full((len(batch), 64), torch.nan),)

    monkeypatch.setattr(extraction, "open_network", lambda *_: Diverged())
    with pytest.raises(InputError, match=r"made: features .* NaN or infinite"):
        measure_quality(named(MADE), real, metrics=["FID"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["FID", "fid"]}, "metrics: fid asked for; choose from FID, sFID"),
        ({"metrics": []}, "metrics: none asked for"),
        ({"resamples": 1}, "1 resamples"),
        ({"resamples": -2}, "-2 resamples"),
        ({"batch_size": 0}, "batch size 0"),
        ({"extractor": "inception"}, "unknown feature extractor"),
        ({"distances": "float16"}, "distances 'float16'; choose one of float64, adm-float16"),
    ],
)
def test_other_unusable_arguments_are_refused(real: Reference, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure_quality(named(MADE), real, **options)


def test_too_few_images_are_refused(real: Reference) -> None:
    with pytest.raises(InputError, match="made: 9 images; 10 splits of the Inception Score need at least 10"):
        measure_quality(named(MADE[:9]), real)
    with pytest.raises(InputError, match="made: 3 images; recall needs at least 4"):
        measure_quality(named(MADE[:3]), real, metrics=["FID", "recall"])
    with pytest.raises(InputError, match="made: 1 images; FID needs at least 2"):
        measure_quality(named(MADE), named(REAL[:1]), metrics=["IS"])
