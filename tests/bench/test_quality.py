from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import digits, features, metrics, quality
from dydit.errors import InputError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """8x8 images gain nothing from threads that wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = digits.load()
    model = features.train_digits_classifier(data.images, data.labels, seed=0, epochs=2)
    path = tmp_path_factory.mktemp("weights") / "digits_cnn.safetensors"
    features.save_digits_classifier(model, path, {})
    return path


def halves() -> tuple[Tensor, Tensor]:
    images = digits.load().images[torch.randperm(1797, generator=torch.Generator().manual_seed(1))]
    return images[:300], images[300:700]


def noisy(images: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    return (images + sigma * noise).clamp(0, 255).to(torch.uint8)


def test_torch_fidelity_and_our_metrics_agree_on_random_images(weights: Path) -> None:
    _, reference = halves()
    noise = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    samples = torch.cat([noise[:100], noisy(reference[:200], 60)])
    measured = quality.evaluate(samples, reference, weights=weights, splits=6)
    gen, ref = (
        quality.extract(x, ["64", "logits_unbiased"], weights=weights, batch_size=17) for x in (samples, reference)
    )
    np.testing.assert_allclose(metrics.fid(gen["64"], ref["64"]), measured.fid, rtol=quality.PARITY_RTOL)
    np.testing.assert_allclose(
        metrics.inception_score(gen["logits_unbiased"].softmax(1), 50),
        (measured.inception_score, measured.inception_score_std),
        rtol=quality.PARITY_RTOL,
    )
    # Counts over N; torch-fidelity divides in float32.
    ours = metrics.precision_recall(ref["64"], gen["64"], quality.NEIGHBOURS)
    np.testing.assert_allclose(ours, (measured.precision, measured.recall), rtol=0, atol=1e-6)
    assert 0.1 < measured.precision < 0.95 and measured.precision != measured.recall


def test_batch_size_changes_nothing(weights: Path) -> None:
    samples, reference = halves()
    one, other = (
        dataclasses.astuple(quality.evaluate(samples, reference, weights=weights, batch_size=n))[4:] for n in (7, 400)
    )
    np.testing.assert_allclose(one, other, rtol=1e-10)


def test_identical_sets_and_degraded_ones(weights: Path) -> None:
    samples, reference = halves()
    same = quality.evaluate(reference, reference, weights=weights)
    assert abs(same.fid) < 1e-6 and (same.precision, same.recall) == (1.0, 1.0)
    measured = [quality.evaluate(noisy(samples, s), reference, weights=weights) for s in (0.0, 60.0, 120.0)]
    assert measured[0].fid < measured[1].fid < measured[2].fid
    assert measured[0].precision > measured[1].precision > measured[2].precision


def test_one_class_is_precise_but_covers_little(weights: Path) -> None:
    data = digits.load()
    zeros = quality.evaluate(data.images[data.labels == 0], data.images[data.labels != 8], weights=weights, splits=2)
    assert zeros.precision > 0.95 and zeros.recall < 0.3 and zeros.inception_score < 3.0


def test_splits_are_taken_in_sample_order(weights: Path) -> None:
    images = digits.load().images[:200]
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    scores = [quality.evaluate(x, images, weights=weights, splits=10).inception_score for x in (images, images[order])]
    assert scores[0] != pytest.approx(scores[1], rel=1e-6)


def test_rows_name_the_extractor_and_carry_evidence(weights: Path) -> None:
    samples, reference = halves()
    measured = quality.evaluate(samples, reference, weights=weights)
    rows = {row["metric"]: row for row in measured.rows()}
    names = ["FID[digits-cnn]", "IS[digits-cnn]", "IS_std[digits-cnn]", "precision[digits-cnn]", "recall[digits-cnn]"]
    assert list(rows) == names
    assert rows["FID[digits-cnn]"]["value"] == measured.fid and rows["recall[digits-cnn]"]["value"] == measured.recall
    for row in rows.values():
        assert (row["n_samples"], row["n_reference"]) == (300, 400)
        assert row["weights_sha256"] == features.file_sha256(weights)


def test_interval_contains_the_fid(weights: Path) -> None:
    samples, reference = halves()
    low, high = quality.fid_interval(samples, reference, weights=weights, resamples=30)
    assert 0 <= low < quality.evaluate(samples, reference, weights=weights).fid < high
    worse, _ = quality.fid_interval(noisy(samples, 120), reference, weights=weights, resamples=30)
    assert worse > high


def test_it_is_quiet_writes_nothing_and_draws_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    samples, reference = halves()
    before = torch.get_rng_state()
    quality.evaluate(samples, reference, weights=weights)
    quality.fid_interval(samples, reference, weights=weights, resamples=2)
    assert torch.equal(before, torch.get_rng_state())
    assert capfd.readouterr() == ("", "") and not list(tmp_path.rglob("*"))


def test_colour_images_are_read_as_their_grey(weights: Path) -> None:
    images = digits.load().images[:12]
    grey, colour = (quality.extract(x, ["64"], weights=weights)["64"] for x in (images, images.repeat(1, 3, 1, 1)))
    assert torch.equal(grey, colour)


def test_inception_is_asked_for_by_the_adm_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def record(**options: Any) -> dict[str, float]:
        asked.update(options)
        names = ("frechet_inception_distance", "inception_score_mean", "inception_score_std", "precision", "recall")
        return dict.fromkeys(names, 0.5)

    monkeypatch.setattr("torch_fidelity.calculate_metrics", record)
    path = tmp_path / "inception.pth"
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, path)
    images = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    measured = quality.evaluate(images, images, extractor="inception-v3-compat", weights=path)
    assert measured.rows()[0]["metric"] == "FID[inception-v3-compat]"
    assert asked["feature_extractor"] == "inception-v3-compat" and asked["feature_extractor_weights_path"] == str(path)
    assert asked["feature_layer_fid"] == asked["feature_layer_prc"] == "2048"
    assert asked["feature_layer_isc"] == "logits_unbiased"
    assert (asked["cache"], asked["samples_shuffle"], asked["verbose"]) == (False, False, False)


def test_inception_extracts_with_weights_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as module

    network = module.FeatureExtractorInceptionV3
    with monkeypatch.context() as patched, torch.random.fork_rng(devices=[]):
        patched.setattr(module, "load_state_dict_from_url", lambda *args, **options: {})
        patched.setattr(network, "load_state_dict", lambda self, state: None)
        state = network("inception-v3-compat", ["2048"]).state_dict()  # random weights
    path = tmp_path / "inception.pth"
    torch.save(state, path)
    images = digits.load().images[:3]
    values = quality.extract(images, ["2048", "logits_unbiased"], extractor="inception-v3-compat", weights=path)
    assert values["2048"].shape == (3, 2048) and values["logits_unbiased"].shape == (3, 1008)
    torch.testing.assert_close(values["logits_unbiased"], values["2048"] @ state["fc.weight"].T, rtol=1e-4, atol=1e-4)


GOOD = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("samples", "reference", "message"),
    [
        (torch.full((20, 1, 8, 8), torch.nan), GOOD, "samples: the images hold NaN"),
        (GOOD.float(), GOOD, r"samples: torch\.float32; images must be torch\.uint8"),
        (GOOD, GOOD.long(), r"reference: torch\.int64"),
        (GOOD[0], GOOD, r"samples: shape \(1, 8, 8\)"),
        (GOOD, GOOD.expand(-1, 2, -1, -1), r"reference: shape \(20, 2, 8, 8\)"),
        (GOOD[:0], GOOD, r"shape \(0, 1, 8, 8\)"),
        (GOOD, torch.zeros(20, 1, 16, 16, dtype=torch.uint8), "reference: 16x16 pixels; digits-cnn takes 8x8"),
        (GOOD, GOOD.expand(-1, 3, -1, -1), r"samples are \(1, 8, 8\), the reference \(3, 8, 8\)"),
        (GOOD[:9], GOOD, "9 images for 10 splits"),
        (GOOD, GOOD[:3], "reference: 3 images; the metrics need at least 4"),
    ],
)
def test_unusable_images_are_refused(weights: Path, samples: Tensor, reference: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        quality.evaluate(samples, reference, weights=weights)
    assert "\n" not in str(caught.value)


def test_mixed_resolutions_are_refused_by_every_extractor(tmp_path: Path) -> None:
    other = torch.zeros(20, 1, 16, 16, dtype=torch.uint8)
    with pytest.raises(InputError, match="one resolution"):
        quality.evaluate(GOOD, other, extractor="inception-v3-compat", weights=tmp_path / "never opened")
    with pytest.raises(InputError, match="one resolution"):
        quality.fid_interval(GOOD, other, extractor="inception-v3-compat", weights=tmp_path / "never opened")


def test_other_unusable_arguments_are_refused(weights: Path) -> None:
    with pytest.raises(InputError, match="for 0 splits"):
        quality.evaluate(GOOD, GOOD, weights=weights, splits=0)
    with pytest.raises(InputError, match="batch_size = 0"):
        quality.evaluate(GOOD, GOOD, weights=weights, batch_size=0)
    with pytest.raises(InputError, match="unknown feature extractor"):
        quality.evaluate(GOOD, GOOD, extractor="inception")
    with pytest.raises(InputError, match="at least 2"):
        quality.fid_interval(GOOD[:1], GOOD, weights=weights)
