from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.data import preprocessing
from bench.data.sets import digits
from bench.quality.features import classifiers
from dydit import checkpoint
from dydit.errors import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = digits.load_digits()
    model = classifiers.train_classifier(classifiers.DIGITS, data.images[:256], data.labels[:256], seed=0, epochs=1)
    path = tmp_path_factory.mktemp("weights") / "digits_cnn.safetensors"
    classifiers.save_classifier(model, path, {"seed": "0"})
    return path


def test_the_classifier_learns_and_is_small() -> None:
    data = digits.load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1297], order[1297:]
    model = classifiers.train_classifier(classifiers.DIGITS, data.images[train], data.labels[train], seed=0, epochs=12)
    x = preprocessing.to_model(data.images[held_out])
    assert (model(x).argmax(1) == data.labels[held_out]).float().mean() > 0.93
    assert model.features(x).shape == (500, 64)
    assert sum(p.numel() for p in model.parameters()) < 200_000
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_training_repeats_and_leaves_the_global_generator_alone() -> None:
    data = digits.load_digits()
    seen: list[int] = []

    def watch(steps: range) -> list[int]:
        seen.extend(steps)
        return list(steps)

    def train(seed: int) -> torch.Tensor:
        model = classifiers.train_classifier(
            classifiers.DIGITS, data.images[:192], data.labels[:192], seed=seed, epochs=2, progress=watch
        )
        return torch.nn.utils.parameters_to_vector(model.parameters())

    before = torch.get_rng_state()
    first = train(0)
    assert torch.equal(before, torch.get_rng_state()) and seen == [0, 1, 2, 3, 4, 5]
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
    moved = classifiers._shift(dot, torch.Generator().manual_seed(0))
    rows, columns = (moved[:, 0] == 1).nonzero()[:, 1:].T
    assert len(rows) == 200 and set(rows.tolist()) == set(columns.tolist()) == {3, 4, 5}
    assert (moved == -1).sum() == 200 * 63


def test_training_refuses_data_that_do_not_fit() -> None:
    data = digits.load_digits()
    with pytest.raises(InputError, match="0 epochs"):
        classifiers.train_classifier(classifiers.DIGITS, data.images, data.labels, seed=0, epochs=0)
    with pytest.raises(InputError, match=r"labels \(5,\)"):
        classifiers.train_classifier(classifiers.DIGITS, data.images, data.labels[:5], seed=0, epochs=1)


def test_saved_weights_come_back_with_their_metadata(weights: Path) -> None:
    before = torch.get_rng_state()
    model = classifiers.load_classifier(classifiers.DIGITS, weights)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in load_file(weights).items())
    assert checkpoint.read(weights).record == {"seed": "0"}
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


def network(path: Path, layers: list[str]) -> torch.nn.Module:
    return classifiers.network_class(classifiers.DIGITS)("digits-cnn", layers, feature_extractor_weights_path=str(path))


def test_layers_of_the_network(weights: Path) -> None:
    images = digits.load_digits().images[:20]
    model = classifiers.load_classifier(classifiers.DIGITS, weights).double()
    x = preprocessing.to_model(images).double()
    layers = ["logits_unbiased", "spatial", "logits", "64"]
    unbiased, spatial, logits, penultimate = network(weights, layers)(images.expand(-1, 3, -1, -1))
    assert penultimate.shape == (20, 64) and penultimate.dtype == spatial.dtype == torch.float64
    # `to_model` rounds to float32, the network does not.
    torch.testing.assert_close(penultimate, model.features(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, model(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits - unbiased, model.head.bias.expand(20, -1), rtol=0, atol=1e-12)


def test_the_spatial_layer_is_the_pooled_maps_with_channels_last(weights: Path) -> None:
    images = digits.load_digits().images[:6]
    convolutions = [
        module
        for module in classifiers.load_classifier(classifiers.DIGITS, weights).body
        if isinstance(module, torch.nn.Conv2d)
    ]
    maps = preprocessing.to_model(images)
    for convolution in convolutions[:2]:
        maps = torch.nn.functional.silu(convolution(maps))
    maps = torch.nn.functional.avg_pool2d(maps, 2)
    (spatial,) = network(weights, ["spatial"])(images.expand(-1, 3, -1, -1))
    assert spatial.shape == (6, 4 * 4 * 7)
    expected = [[image[c, h, w] for h in range(4) for w in range(4) for c in range(7)] for image in maps]
    torch.testing.assert_close(spatial, torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


def test_broken_digits_weights_are_refused(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"broken\.safetensors does not hold"):
        classifiers.load_classifier(classifiers.DIGITS, path)
    state = load_file(weights)
    save_file(state | {"head.weight": torch.zeros(7, 64)}, path)
    with pytest.raises(InputError, match=r"head\.weight") as caught:
        classifiers.load_classifier(classifiers.DIGITS, path)
    assert "\n" not in str(caught.value)
    save_file(state | {"head.weight": torch.full((10, 64), torch.nan)}, path)
    with pytest.raises(InputError, match=r"NaN or infinite values in head\.weight"):
        classifiers.load_classifier(classifiers.DIGITS, path)
