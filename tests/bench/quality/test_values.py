"""What a value says beside its number: splits, orders and sets that decide it."""

from __future__ import annotations

import numpy as np
import pytest

from bench.quality.metrics.arrays import Array
from bench.quality.metrics.inception_score import inception_score
from bench.quality.metrics.moments import of_features
from bench.quality.settings import Resampling
from bench.quality.values import (
    ScoreStream,
    Value,
    frechet_values,
    inception_score_values,
    precision_recall_values,
    split_size,
    warn_of_equal_statistics,
    warn_of_shared_images,
)

NO_INTERVALS = Resampling(0, 0)


def probs(count: int, classes: int = 10, seed: int = 0) -> Array:
    """Nearly certain rows of random classes."""
    rng = np.random.default_rng(seed)
    rows = np.full((count, classes), 0.01 / (classes - 1))
    rows[np.arange(count), rng.integers(classes, size=count)] = 0.99
    return rows


def scored(p: Array, resampling: Resampling = NO_INTERVALS) -> dict[str, Value]:
    stream = ScoreStream(len(p), p.shape[1], 0)
    for batch in np.split(p, range(64, len(p), 64)):
        stream.update(batch)
    scores = stream.scores()
    kept = p if resampling.resamples else None
    return {value.metric: value for value in inception_score_values(scores, kept, resampling)}


@pytest.mark.parametrize(
    ("count", "size"), [(10, 1), (300, 30), (1797, 180), (4999, 500), (5000, 5000), (50_000, 5000)]
)
def test_split_sizes_are_the_protocols_from_5000_on(count: int, size: int) -> None:
    assert split_size(count) == size


@pytest.mark.parametrize("count", [300, 2000, 10_000, 50_000])
@pytest.mark.parametrize("seed", range(3))
def test_samples_in_random_order_are_scored_without_a_warning(count: int, seed: int) -> None:
    measured = scored(probs(count, seed=seed))
    assert "warning" not in measured["IS"].note
    assert measured["IS"].value == pytest.approx(measured["IS_all"].value, rel=0.2 if count == 300 else 0.03)


@pytest.mark.parametrize("count", [300, 2000, 10_000, 50_000])
def test_samples_sorted_by_class_are_warned_of(count: int) -> None:
    p = probs(count)
    measured = scored(p[np.argsort(p.argmax(axis=1), kind="stable")])
    shuffled = scored(p)["IS"].value
    assert measured["IS"].value < 0.75 * measured["IS_all"].value
    assert "warning: in random order they score" in measured["IS"].note and "IS_all" in measured["IS"].note
    said = float(measured["IS"].note.split("they score ")[1].split(",")[0])
    assert said == pytest.approx(shuffled, rel=0.08 if count == 300 else 0.01)


@pytest.mark.parametrize(
    ("count", "first", "last"),
    [
        (2000, 1000, 2000),  # half of the samples
        (2000, 1600, 2000),  # a fifth of them
        (50_000, 25_000, 50_000),
        (6000, 0, 6000),  # one split counts
        (7500, 0, 7500),
        (7501, 0, 7501),  # two splits that score differently
    ],
)
def test_samples_sorted_in_part_or_in_few_splits_are_warned_of(count: int, first: int, last: int) -> None:
    p = probs(count)
    p[first:last] = p[first:last][np.argsort(p[first:last].argmax(axis=1), kind="stable")]
    note = scored(p)["IS"].note
    assert "warning: in random order they score" in note and "IS_all" in note


def test_one_class_in_one_split_is_warned_of() -> None:
    p = np.concatenate([probs(15_000), np.tile(probs(1), (5000, 1))])
    assert "warning: in random order they score" in scored(p)["IS"].note


@pytest.mark.parametrize("count", [45, 100, 1000, 6000, 7501])
def test_a_random_order_raises_no_alarm(count: int) -> None:
    assert not any("random order" in scored(probs(count, seed=seed))["IS"].note for seed in range(12))


@pytest.mark.parametrize("count", [11, 20, 40])
def test_splits_of_few_images_say_that_they_cannot_tell(count: int) -> None:
    note = scored(probs(count))["IS"].note
    assert note.endswith("too small to tell whether the order of the samples decides, see IS_all")


@pytest.mark.parametrize(("count", "note"), [(5000, "of one split, so 0"), (50_000, "over the splits")])
def test_the_spread_of_one_split_is_said_to_be_none(count: int, note: str) -> None:
    assert note in scored(probs(count))["IS_std"].note


def test_labels_that_repeat_in_turn_are_not_warned_of() -> None:
    p = np.eye(10)[np.arange(1000) % 10]
    measured = scored(p)
    assert measured["IS"].value == pytest.approx(10.0) and "warning" not in measured["IS"].note


def test_all_images_at_once_do_not_know_their_order() -> None:
    p = probs(777)
    values = [scored(rows)["IS_all"] for rows in (p, p[::-1], p[np.argsort(p.argmax(axis=1))])]
    assert values[0].value == pytest.approx(inception_score(p, 777)[0], rel=1e-12) and values[0].splits == 1
    assert all(value.value == pytest.approx(values[0].value, rel=1e-12) for value in values)


@pytest.mark.parametrize(
    ("count", "splits", "note"),
    [
        (5000, 1, "splits of 5000 in sample order"),
        (5001, 1, "; the last split has 1 and is left out of the mean"),
        (7500, 1, "; the last split has 2500 and is left out of the mean"),
        (7501, 2, "; the last split has 2501"),
        (10_000, 2, "splits of 5000 in sample order"),
        (1797, 10, "; the last split has 177"),
        (51, 8, "; the last split has 3 and is left out of the mean"),
        (1001, 10, "; the last split has 92"),
    ],
)
def test_a_short_last_split_is_named_and_counts_from_half_on(count: int, splits: int, note: str) -> None:
    p = probs(count)
    measured = scored(p)
    assert measured["IS"].splits == measured["IS_std"].splits == splits and measured["IS"].note.endswith(note)
    size = split_size(count)
    expected = inception_score(p[: splits * size], size)
    assert (measured["IS"].value, measured["IS_std"].value) == pytest.approx(expected, rel=1e-12)


def test_the_interval_leaves_out_what_the_value_leaves_out() -> None:
    p = probs(5001)
    one, other = (scored(rows, Resampling(20, 0)) for rows in (p, p[:5000]))
    assert (one["IS"].low, one["IS"].high) == (other["IS"].low, other["IS"].high)
    whole = one["IS_all"]
    assert whole.low is not None and whole.high is not None and whole.low < whole.value < whole.high


def test_splits_of_one_image_are_warned_of() -> None:
    measured = scored(probs(10))
    assert measured["IS"].value == 1.0 and "warning: a split of 1 scores 1" in measured["IS"].note
    assert measured["IS_all"].value > 2.0


def test_samples_among_the_reference_images_are_counted() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    values = [Value("FID", 0.0), Value("KID", 0.0, note="both sets whole"), Value("IS", 1.0)]
    assert warn_of_shared_images(values, rows[:20], rows[20:]) == values
    fid, kid, score = warn_of_shared_images(values, rows[:20], rows[15:])
    assert fid.note.startswith("warning: 5 of 20 samples are among the 15 reference images compared")
    assert kid.note == f"both sets whole; {fid.note}" and score.note == ""


def test_statistics_that_are_equal_are_warned_of_where_no_images_are_known() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 6))
    values = [Value("FID", 0.0), Value("FID-infinity", -1.0), Value("sFID", 0.0), Value("IS", 1.0)]
    own = of_features(rows)
    fid, infinity, *others = warn_of_equal_statistics(values, own, of_features(rows[::-1]))
    assert fid.note.startswith("warning: samples and reference have the same mean") and fid.note == infinity.note
    assert others == values[2:]
    # One other image, or the same images once more and slightly changed, are no equal statistics.
    for other in (np.concatenate([rows[:-1], [rows[0]]]), rows * 1.001):
        assert warn_of_equal_statistics(values, own, of_features(other)) == values


def test_the_kind_of_distances_is_in_the_note() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    for kind in ("float64", "adm-float16"):
        for value in precision_recall_values(rows, rows, kind, NO_INTERVALS):
            assert value.note == f"k = 3, distances in {kind}" and value.value == 1.0


def test_samples_of_one_class_are_named() -> None:
    p = probs(200)
    p[:, 3] += 2.0
    assert "warning: to the extractor all samples are of class 3" in scored(p / p.sum(1, keepdims=True))["IS"].note
    assert "all samples are of class" not in scored(probs(200))["IS"].note


def test_poor_statistics_are_named_beside_the_distance() -> None:
    rng = np.random.default_rng(0)
    varied, some, one = rng.normal(size=(50, 6)), rng.normal(size=(50, 6)), np.ones((50, 6))
    some[:, 1] = 3.0

    def note(samples: Array, reference: Array) -> str:
        statistics = of_features(samples), of_features(reference)
        return frechet_values("FID", statistics[0], None, statistics[1], NO_INTERVALS)[0].note

    assert note(varied, varied) == note(some, some) == ""
    assert note(some, varied) == "1 of 6 features have one value in all samples, 0 in the reference"
    assert note(varied, one) == "warning: all images of the reference have the same features"
    assert note(varied[:6], varied[:6]) == (
        "6 images for 6 features: far above the FID of many images; the reference has 6 images for 6 features"
    )
