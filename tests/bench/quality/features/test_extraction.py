from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.data import image_set
from bench.data.image_set import Images
from bench.data.sets import digits
from bench.quality.features import classifiers, extraction, extractors, inception
from bench.records import checksums
from dydit.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = ["64", "spatial", "logits_unbiased"]
INCEPTION = ["2048", "spatial", "logits_unbiased"]


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


def some_digits(count: int) -> Images:
    return image_set.of_tensor(digits.load_digits().images[:count], "some digits")


def all_of(stream: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    batches = list(stream)
    return {layer: np.concatenate([batch[layer] for batch in batches]) for layer in batches[0]}


def test_batches_come_in_order_as_torch_fidelity_extracts_them() -> None:
    from torch_fidelity.utils import get_featuresdict_from_dataset

    source = some_digits(50)
    network = extraction.open_network("digits-cnn", None, DIGITS, "cpu")
    theirs = get_featuresdict_from_dataset(source, network, 16, False, save_cpu_ram=True, verbose=False)
    batches = list(extraction.stream_features(source, "digits-cnn", DIGITS, batch_size=16))
    assert [len(batch["64"]) for batch in batches] == [16, 16, 16, 2]
    assert all(list(batch) == DIGITS for batch in batches)
    for layer, ours in all_of(iter(batches)).items():
        assert ours.dtype == np.float64 and np.array_equal(ours, theirs[layer].numpy())


def test_batch_size_moves_features_by_rounding_only(inception_weights: extractors.Weights) -> None:
    one, other = (
        all_of(extraction.stream_features(some_digits(90), "digits-cnn", DIGITS, batch_size=n)) for n in (7, 200)
    )
    for layer in DIGITS:
        np.testing.assert_allclose(one[layer], other[layer], rtol=1e-10, atol=1e-12)
    pixels = torch.randint(0, 256, (5, 3, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = image_set.of_tensor(pixels, "noise")
    one, other = (
        all_of(extraction.stream_features(source, "inception-v3-compat", INCEPTION, inception_weights, n))
        for n in (2, 5)
    )
    for layer, width in zip(INCEPTION, (2048, 2023, 1008), strict=True):
        assert one[layer].shape == (5, width) and one[layer].dtype == np.float32
        np.testing.assert_allclose(one[layer], other[layer], rtol=1e-4, atol=1e-5 * np.abs(one[layer]).max())


def test_it_draws_nothing_prints_nothing_and_keeps_no_gradients(capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.get_rng_state()
    network = extraction.open_network("digits-cnn", None, DIGITS, "cpu")
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    list(extraction.run_network(network, some_digits(5), DIGITS, batch_size=2))
    assert torch.equal(before, torch.get_rng_state()) and capfd.readouterr() == ("", "")


def test_lengths_of_layers_are_as_declared(inception_weights: extractors.Weights) -> None:
    for name, size, weights in (("digits-cnn", 8, None), ("inception-v3-compat", 12, inception_weights)):
        spec = extractors.extractor(name)
        source = image_set.of_tensor(torch.zeros(1, 1, size, size, dtype=torch.uint8), "black")
        (batch,) = extraction.stream_features(source, name, list(spec.dimensions), weights)
        assert {layer: values.shape[1] for layer, values in batch.items()} == dict(spec.dimensions)
        assert {spec.features_layer, spec.spatial_layer, spec.logits_layer} == set(spec.dimensions)


def test_default_layers_follow_the_adm_protocol() -> None:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    extraction.register()
    extraction.register()  # a second call must not register twice
    for spec in extractors.EXTRACTORS.values():
        default = FEATURE_EXTRACTORS_REGISTRY[spec.registered].get_default_feature_layer_for_metric
        if spec.logits_layer is not None:
            assert default("isc") == spec.logits_layer == "logits_unbiased"
        assert default("fid") == default("prc") == spec.features_layer
    assert extractors.EXTRACTORS["inception-v3-compat"].features_layer == "2048"


def test_networks_compute_in_the_dtype_that_is_declared(inception_weights: extractors.Weights) -> None:
    for name, weights in (("digits-cnn", None), ("inception-v3-compat", inception_weights)):
        spec = extractors.extractor(name)
        network = extraction.open_network(name, weights, [spec.features_layer], "cpu")
        floating = [value for value in network.state_dict().values() if value.is_floating_point()]
        assert floating and {value.dtype for value in floating} == {spec.dtype}


@pytest.mark.parametrize(
    ("capability", "convolution", "matmul", "text"),
    [
        (9, True, False, "float32 on cuda, TF32 in convolutions, not in matrix products"),
        (9, False, True, "float32 on cuda, TF32 in matrix products, not in convolutions"),
        (8, True, True, "float32 on cuda, TF32 in convolutions and matrix products"),
        (8, False, False, "float32 on cuda, no TF32 in convolutions and matrix products"),
        (7, True, True, "float32 on cuda"),
    ],
)
def test_the_arithmetic_names_tf32_where_it_acts(
    monkeypatch: pytest.MonkeyPatch, capability: int, convolution: bool, matmul: bool, text: str
) -> None:
    digits_cnn_, inception_ = extractors.extractor("digits-cnn"), extractors.extractor("inception-v3-compat")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert extraction.describe_arithmetic(inception_) == "float32 on cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))
    monkeypatch.setattr(extraction, "tf32_flags", lambda: {"convolution": convolution, "matmul": matmul})
    assert extraction.describe_arithmetic(inception_) == text
    assert extraction.describe_arithmetic(digits_cnn_) == "float64 on cuda"  # TF32 is for float32 alone


def test_metric_names_carry_the_extractor() -> None:
    for name, spec in extractors.EXTRACTORS.items():
        assert spec.metric("FID") == f"FID[{name}]"
    with pytest.raises(InputError, match="'vgg16'; choose one of digits-cnn, fashion-cnn, inception-v3-compat"):
        extractors.extractor("vgg16")


def test_unusable_arguments_are_refused_before_any_image_is_read() -> None:
    def read(index: int) -> Tensor:
        raise AssertionError(f"image {index} was read")

    source = Images("never read", (8, 8), 3, read)
    with pytest.raises(InputError, match="batch size 0"):
        extraction.stream_features(source, "digits-cnn", DIGITS, batch_size=0)
    for layers in ([], ["64", "64"], ["2048"]):
        with pytest.raises(InputError, match=r"layers .*; choose from 64, spatial, logits_unbiased"):
            extraction.stream_features(source, "digits-cnn", layers)
    with pytest.raises(InputError, match="wide: 8x16 pixels; digits-cnn takes 8x8"):
        extraction.stream_features(Images("wide", (8, 16), 3, read), "digits-cnn", DIGITS)


class Diverging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.calls = 0

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        value = torch.nan if self.calls == 3 else 0.0
        return torch.zeros(len(batch), 2), torch.full((len(batch), 2), value)


def test_features_that_are_not_finite_name_the_images() -> None:
    stream = extraction.run_network(Diverging(), some_digits(10), ["a", "b"], batch_size=4)
    assert len(next(stream)["a"]) == len(next(stream)["b"]) == 4
    with pytest.raises(InputError, match=r"some digits: features \(b\) of images 8 to 9 are NaN or infinite"):
        next(stream)


def test_images_are_read_while_the_network_computes_and_no_more_than_a_few_ahead() -> None:
    read, wanted = list[int](), threading.Semaphore(0)

    def batches() -> Iterator[int]:
        for number in range(1, 9):
            read.append(number)
            wanted.release()
            yield number

    stream = extraction.read_ahead(batches(), ahead=2)
    assert next(stream) == 1
    for _ in range(3):  # two more are read although nobody asked for them
        assert wanted.acquire(timeout=10)
    time.sleep(0.05)
    assert read == [1, 2, 3]
    assert next(stream) == 2
    assert wanted.acquire(timeout=10) and read[:4] == [1, 2, 3, 4]
    assert list(stream) == [3, 4, 5, 6, 7, 8]
    stream = extraction.read_ahead(batches(), ahead=2)
    next(stream)
    before = threading.active_count()
    stream.close()
    assert threading.active_count() == before - 1  # the thread ends with those who ask


def test_an_error_comes_where_its_batch_would_have_come() -> None:
    def batches() -> Iterator[int]:
        yield 1
        yield 2
        raise InputError("3.png: not a whole picture")

    stream, seen = extraction.read_ahead(batches()), list[int]()
    with pytest.raises(InputError, match=r"3\.png: not a whole picture"):
        for number in stream:
            seen.append(number)
    assert seen == [1, 2]


class Broken(Dataset[Tensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        raise InputError(f"{index}.png: not a whole picture; write it again")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_one_line_from_a_worker_too(workers: int) -> None:
    with pytest.raises(InputError) as caught:
        list(extraction._batches(DataLoader(Broken(), num_workers=workers)))
    assert str(caught.value) == "0.png: not a whole picture; write it again"


@pytest.mark.usefixtures("no_download")
def test_missing_weights_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "absent.pth"
    for name, remedy in (("digits-cnn", "nox -s small_scale"), ("inception-v3-compat", inception.URL)):
        with pytest.raises(InputError, match="not found") as caught:
            extractors.extractor(name).weights(missing)
        assert str(missing) in str(caught.value) and remedy in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        list(extraction.stream_features(some_digits(2), "inception-v3-compat", INCEPTION))
    place = tmp_path / "hub" / "checkpoints" / inception.FILE_NAME
    assert str(place) in str(caught.value) and inception.URL in str(caught.value) and "--weights" in str(caught.value)


@pytest.mark.usefixtures("no_download")
def test_weights_are_found_in_torch_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = inception.cached_weights()
    place.parent.mkdir(parents=True)
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, place)
    found = checksums.file_sha256(place)
    spec = dataclasses.replace(extractors.extractor("inception-v3-compat"), sha256=found)
    assert spec.weights() == extractors.Weights(place, found)


def test_another_checksum_is_refused_and_both_are_shown(tmp_path: Path) -> None:
    path = tmp_path / inception.FILE_NAME
    path.write_bytes(b"not even a file of tensors")  # the checksum comes first: nothing is opened
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    spec = extractors.extractor("inception-v3-compat")
    with pytest.raises(InputError, match="--weights-sha256") as caught:
        spec.weights(path)
    assert found in str(caught.value) and inception.SHA256 in str(caught.value) and "\n" not in str(caught.value)
    asked = "0123456789abcdef" * 4
    with pytest.raises(InputError) as caught:
        spec.weights(path, asked)
    assert found in str(caught.value) and asked in str(caught.value)
    with pytest.raises(InputError, match="not a readable file of tensors"):
        spec.weights(path, found.upper())  # accepted by its digest, and then looked into
    with pytest.raises(InputError, match="'6726825d' is no SHA-256"):
        spec.weights(path, "6726825d")


def test_weights_of_the_repository_carry_their_checksum() -> None:
    weights = extractors.extractor("digits-cnn").weights()
    assert weights == extractors.Weights(
        classifiers.DIGITS.weights, hashlib.sha256(classifiers.DIGITS.weights.read_bytes()).hexdigest()
    )


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "inception.pth"
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, path)
    weights = extractors.extractor("inception-v3-compat").weights(path, checksums.file_sha256(path))
    with pytest.raises(InputError, match="holds the weights of another network") as caught:
        extraction.open_network("inception-v3-compat", weights, INCEPTION, "cpu")
    assert "\n" not in str(caught.value)
