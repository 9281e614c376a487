from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import digits, features
from dydit import checkpoint
from dydit.errors import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = digits.load()
    model = features.train_digits_classifier(data.images[:256], data.labels[:256], seed=0, epochs=1)
    path = tmp_path_factory.mktemp("weights") / "digits_cnn.safetensors"
    features.save_digits_classifier(model, path, {"seed": "0"})
    return path


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


def build(path: Path, layers: list[str]) -> torch.nn.Module:
    from torch_fidelity.utils import create_feature_extractor

    features.register()
    network: torch.nn.Module = create_feature_extractor(
        "digits-cnn", layers, cuda=False, feature_extractor_weights_path=str(path), verbose=False
    )
    return network


def test_the_classifier_learns_and_is_small() -> None:
    data = digits.load()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1297], order[1297:]
    model = features.train_digits_classifier(data.images[train], data.labels[train], seed=0, epochs=12)
    x = digits.to_model(data.images[held_out])
    assert (model(x).argmax(1) == data.labels[held_out]).float().mean() > 0.93
    assert model.features(x).shape == (500, 64)
    assert sum(p.numel() for p in model.parameters()) < 200_000
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_training_repeats_and_leaves_the_global_generator_alone() -> None:
    data = digits.load()
    seen: list[int] = []

    def watch(epochs: range) -> list[int]:
        seen.extend(epochs)
        return list(epochs)

    def train(seed: int) -> torch.Tensor:
        model = features.train_digits_classifier(
            data.images[:192], data.labels[:192], seed=seed, epochs=2, progress=watch
        )
        return torch.nn.utils.parameters_to_vector(model.parameters())

    before = torch.get_rng_state()
    first = train(0)
    assert torch.equal(before, torch.get_rng_state()) and seen == [0, 1]
    torch.manual_seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert torch.equal(first, train(0)) and torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(first, train(1))


def test_shifts_move_by_at_most_one_pixel_and_bring_in_black() -> None:
    dot = torch.full((200, 1, 8, 8), -1.0)
    dot[:, :, 4, 4] = 1.0
    moved = features._shift(dot, torch.Generator().manual_seed(0))
    rows, columns = (moved[:, 0] == 1).nonzero()[:, 1:].T
    assert len(rows) == 200 and set(rows.tolist()) == set(columns.tolist()) == {3, 4, 5}
    assert (moved == -1).sum() == 200 * 63


def test_training_refuses_data_that_do_not_fit() -> None:
    data = digits.load()
    with pytest.raises(InputError, match="0 epochs"):
        features.train_digits_classifier(data.images, data.labels, seed=0, epochs=0)
    with pytest.raises(InputError, match=r"labels \(5,\)"):
        features.train_digits_classifier(data.images, data.labels[:5], seed=0, epochs=1)


def test_saved_weights_come_back_with_their_metadata(weights: Path) -> None:
    before = torch.get_rng_state()
    model = features.load_digits_classifier(weights)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in load_file(weights).items())
    assert checkpoint.read(weights).record == {"seed": "0"}
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]
    assert features.file_sha256(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_layers_of_the_registered_extractor(weights: Path) -> None:
    images = digits.load().images[:20]
    model = features.load_digits_classifier(weights).double()
    x = digits.to_model(images).double()
    unbiased, logits, penultimate = build(weights, ["logits_unbiased", "logits", "64"])(images.expand(-1, 3, -1, -1))
    assert penultimate.shape == (20, 64) and penultimate.dtype == torch.float64
    # `to_model` rounds to float32, the extractor does not.
    torch.testing.assert_close(penultimate, model.features(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, model(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits - unbiased, model.head.bias.expand(20, -1), rtol=0, atol=1e-12)


def test_default_layers_follow_the_adm_protocol() -> None:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    features.register()
    features.register()  # a second call must not register twice
    for name, spec in features.EXTRACTORS.items():
        default = FEATURE_EXTRACTORS_REGISTRY[name].get_default_feature_layer_for_metric
        assert default("isc") == spec.logits_layer == "logits_unbiased"
        assert default("fid") == default("prc") == spec.features_layer
    assert features.EXTRACTORS["inception-v3-compat"].features_layer == "2048"


def test_metric_names_carry_the_extractor() -> None:
    assert [spec.metric("FID") for spec in features.EXTRACTORS.values()] == [
        "FID[digits-cnn]",
        "FID[inception-v3-compat]",
    ]
    with pytest.raises(InputError, match="'vgg16'; choose one of digits-cnn, inception-v3-compat"):
        features.extractor("vgg16")


@pytest.mark.usefixtures("no_download")
def test_missing_weights_are_named_with_the_remedy(tmp_path: Path) -> None:
    missing = tmp_path / "absent.pth"
    for name, remedy in (("digits-cnn", "nox -s small_scale"), ("inception-v3-compat", "weights-inception-2015-12-05")):
        with pytest.raises(InputError, match="not found") as caught:
            features.extractor(name).weights(missing)
        assert str(missing) in str(caught.value) and remedy in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no weights file given"):
        features.extractor("inception-v3-compat").weights(None)


def test_broken_digits_weights_are_refused(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"broken\.safetensors does not hold"):
        features.load_digits_classifier(path)
    state = load_file(weights)
    save_file(state | {"head.weight": torch.zeros(7, 64)}, path)
    with pytest.raises(InputError, match=r"head\.weight") as caught:
        features.load_digits_classifier(path)
    assert "\n" not in str(caught.value)
    save_file(state | {"head.weight": torch.full((10, 64), torch.nan)}, path)
    with pytest.raises(InputError, match=r"NaN or infinite values in head\.weight"):
        features.load_digits_classifier(path)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.mark.usefixtures("no_download")
def test_broken_inception_weights_are_refused_and_run_nothing(tmp_path: Path) -> None:
    path, trace = tmp_path / "inception.pth", tmp_path / "executed"
    torch.save({"fc.weight": Payload(trace)}, path)
    with pytest.raises(InputError, match="not a readable file of tensors"):
        features.extractor("inception-v3-compat").weights(path)
    path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(InputError, match="not a readable file of tensors"):
        features.extractor("inception-v3-compat").weights(path)
    assert not trace.exists()
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, path)
    with pytest.raises(InputError, match=r"fc\.weight \(1000, 2048\), expected \(1008, 2048\)"):
        features.extractor("inception-v3-compat").weights(path)
    torch.save({"fc.weight": torch.full((1008, 2048), torch.inf)}, path)
    with pytest.raises(InputError, match=r"infinite values in fc\.weight"):
        features.extractor("inception-v3-compat").weights(path)
